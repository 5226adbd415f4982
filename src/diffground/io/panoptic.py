"""Panoptic PNG files: one segment id per pixel, stored as ``id = R + 256 G + 65536 B``.

The encoding of COCO panoptic segmentation; id 0 is VOID (a pixel that belongs to no segment). The
accompanying JSON names, per image, the ids that its PNG holds. Here are the rows of that JSON, and
those of the narratives of the Panoptic Narrative Grounding benchmark, which lie beside it.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffground.errors import InputError
from diffground.io.images import open_image, read_image
from diffground.io.labels import colour_map

VOID = 0
MAX_ID = 256**3 - 1


def read_panoptic(path: str | Path) -> NDArray[np.uint32]:
    """The segment id of every pixel, uint32 ``(H, W)``, 0 = VOID.

    Raises :class:`InputError` for a file that is missing or broken, that is no PNG, or whose pixels
    are not 8 bit RGB: otherwise the ids would silently be different ones.
    """
    with open_image(path) as image:
        if image.format != "PNG":
            raise InputError(path, "format", f"segment ids need a PNG, the file is {image.format}")
        # Pillow calls 16 bits a channel RGB as well, and cuts them.
        deep = any("16" in str(tile[3]) for tile in getattr(image, "tile", ()))
        stored = "16 bit RGB" if deep else image.mode
        if stored != "RGB":
            raise InputError(path, "mode", f"segment ids need 8 bit RGB, the file is {stored}")
    rgb = read_image(path, upright=False).astype(np.uint32)  # widened before the shifts
    return rgb[..., 0] + 256 * rgb[..., 1] + 65536 * rgb[..., 2]


def segment_masks(
    ids: NDArray[np.uint32], segment_ids: Sequence[int], *, file: str | Path = "panoptic PNG"
) -> NDArray[np.bool_]:
    """The mask of each segment, bool ``(N, H, W)``, in the order of ``segment_ids``.

    Args:
        ids: segment id per pixel ``(H, W)``, see :func:`read_panoptic`.
        segment_ids: N ids.
        file: where ``ids`` came from, for the message.

    Raises:
        InputError: an id has no pixel (the JSON and the PNG are not of one dataset), or is VOID.
    """
    wanted = [int(segment) for segment in segment_ids]
    if VOID in wanted:
        raise InputError(file, "segment_ids", "id 0 is VOID, not a segment")
    masks = np.zeros((len(wanted), *ids.shape), dtype=bool)
    for mask, segment in zip(masks, wanted, strict=True):
        mask[:] = ids == segment
    absent = [s for s, mask in zip(wanted, masks, strict=True) if not mask.any()]
    if absent:
        raise InputError(file, "segment_ids", f"no pixel has the id {absent}")
    return masks


def first_come(
    masks: Iterable[NDArray[np.bool_]], size: tuple[int, int]
) -> tuple[NDArray[np.uint32], list[int]]:
    """Whose each pixel is of masks ``(H, W)`` that may overlap: the first one's that claims it.

    Returns uint32 ``(H, W)``, 1, 2, ... of the first, second, ... of those that have a pixel and
    0 of none; and the places of these among ``masks``.
    """
    segments, shown = np.zeros(size, np.uint32), list[int]()
    for place, mask in enumerate(masks):
        mine = mask & (segments == VOID)
        if mine.any():
            shown.append(place)
            segments[mine] = len(shown)
    return segments, shown


def encode_panoptic(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The RGB pixels ``(H, W, 3)`` that store segment ids ``(H, W)``; asserts 0 <= id < 2**24."""
    assert ids.ndim == 2, ids.shape
    assert ids.size == 0 or (ids.min() >= 0 and ids.max() <= MAX_ID), "ids need 24 bits"
    wide = ids.astype(np.uint32)
    return np.stack([wide & 255, (wide >> 8) & 255, (wide >> 16) & 255], -1).astype(np.uint8)


Row = dict[str, Any]


def category_rows(categories: Sequence[tuple[int, str, str, bool]]) -> list[Row]:
    """The ``categories`` of a panoptic JSON: each an id, a name, a supercategory, and whether it is
    a thing; in VOC's colours, which begin anew after 255."""
    colours = colour_map()[1:].tolist()
    return [
        {
            "supercategory": supercategory,
            "color": colours[place % len(colours)],
            "isthing": int(thing),
            "id": number,
            "name": name,
        }
        for place, (number, name, supercategory, thing) in enumerate(categories)
    ]


def segment_row(
    mask: NDArray[np.bool_], segment: int, category: int, *, crowd: bool = False
) -> Row:
    """A row of ``segments_info``: of a mask ``(H, W)`` that is not empty, its area and its box
    ``[x, y, w, h]`` in pixels."""
    left, top, right, bottom = Image.fromarray(mask).getbbox() or (0, 0, 0, 0)
    return {
        "id": segment,
        "category_id": category,
        "iscrowd": int(crowd),
        "bbox": [left, top, right - left, bottom - top],
        "area": int(mask.sum()),
    }


def narrative_row(
    image: int,
    annotator: int,
    caption: str,
    chunks: Sequence[tuple[str, Sequence[int], bool, bool]],
) -> Row:
    """A row of ``png_coco_{split}.json``; the image id and the segment ids are texts there.

    Args:
        chunks: of the caption, in order: text, segment ids, whether it is a plural, and a noun.
    """
    return {
        "image_id": str(image),
        "annotator_id": annotator,
        "caption": caption,
        "segments": [
            {
                "utterance": text.lower(),
                "segment_ids": [str(segment) for segment in segments],
                "plural": plural,
                "noun": noun,
            }
            for text, segments, plural, noun in chunks
        ],
    }


class PanopticImage(NamedTuple):
    """One image of a panoptic JSON: its ``png`` has the segments of ``rows``."""

    id: int
    file: str
    png: str
    size: tuple[int, int]  # (H, W), pixels
    rows: Sequence[Row]  # `segments_info`


def panoptic_json(
    images: Sequence[PanopticImage],
    categories: Sequence[Row],
    *,
    info: Mapping[str, Any],
    licence: str,
) -> Row:
    """The content of ``panoptic_{split}.json``.

    Args:
        categories: :func:`category_rows`.
        info: what the dataset says of itself.
        licence: of all images.
    """
    return {
        "info": dict(info),
        "licenses": [{"id": 1, "name": licence, "url": ""}],
        "images": [image_row(image.id, image.file, image.size) for image in images],
        "annotations": [
            {"segments_info": list(image.rows), "file_name": image.png, "image_id": image.id}
            for image in images
        ],
        "categories": list(categories),
    }


def image_row(number: int, file: str, size: tuple[int, int]) -> Row:
    """A row of ``images`` in any of COCO's JSON files, under its first licence."""
    return {"license": 1, "file_name": file, "height": size[0], "width": size[1], "id": number}
