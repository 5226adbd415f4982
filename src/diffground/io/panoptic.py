"""Panoptic PNG files: one segment id per pixel, stored as ``id = R + 256 G + 65536 B``.

The encoding of COCO panoptic segmentation; id 0 is VOID (a pixel that belongs to no segment). The
accompanying JSON names, per image, the ids that its PNG holds.
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffground.errors import InputError
from diffground.io.images import open_image, read_image

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


def encode_panoptic(ids: NDArray[np.integer]) -> NDArray[np.uint8]:
    """The RGB pixels ``(H, W, 3)`` that store segment ids ``(H, W)``; asserts 0 <= id < 2**24."""
    assert ids.ndim == 2, ids.shape
    assert ids.size == 0 or (ids.min() >= 0 and ids.max() <= MAX_ID), "ids need 24 bits"
    wide = ids.astype(np.uint32)
    return np.stack([wide & 255, (wide >> 8) & 255, (wide >> 16) & 255], -1).astype(np.uint8)
