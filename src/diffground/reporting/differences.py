"""Where two sets of masks differ by more than their borders: boxes, and how they are drawn."""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image, ImageDraw
from scipy import ndimage

_THIN = 0.012  # share of the shorter side: differences narrower than twice this are borders
_LEAST = 0.015  # share of the image that an area must have
_MOST = 3  # areas per image


class Box(NamedTuple):
    """A rectangle in pixels, ends exclusive."""

    left: int
    top: int
    right: int
    bottom: int


def difference_boxes(prediction: NDArray[np.bool_], truth: NDArray[np.bool_]) -> list[Box]:
    """Boxes around the three largest areas where masks ``(N, H, W)`` differ, largest first.

    A pixel differs if any of the N phrases has it in one of the two and not in the other. An
    opening removes what is thin (masks that are a few pixels off along their border, 1.2 % of the
    shorter side to each side); what is left is cut into connected areas, over their corners too;
    those below 1.5 % of the image get no box.
    """
    assert prediction.shape == truth.shape, (prediction.shape, truth.shape)
    assert prediction.dtype == truth.dtype == np.bool_, (prediction.dtype, truth.dtype)
    height, width = truth.shape[1:]
    reach = max(1, round(_THIN * min(height, width)))
    # an area at the image's edge goes on beyond it, or the opening would eat it from there
    padded = np.pad(prediction ^ truth, [(0, 0), (reach, reach), (reach, reach)], mode="edge")
    square = np.ones((1, 2 * reach + 1, 2 * reach + 1), dtype=bool)  # each phrase by itself
    thick = ndimage.binary_opening(padded, square)[:, reach:-reach, reach:-reach].any(axis=0)
    areas, count = ndimage.label(thick, structure=np.ones((3, 3)))
    sizes = np.bincount(areas.ravel(), minlength=count + 1)[1:]
    places = ndimage.find_objects(areas)
    boxes = []
    for index in np.argsort(-sizes, kind="stable")[:_MOST]:
        if sizes[index] >= _LEAST * height * width:
            rows, columns = places[index]
            boxes.append(Box(columns.start, rows.start, columns.stop, rows.stop))
    return boxes


def draw_dashed(picture: Image.Image, boxes: list[Box], scale: float) -> Image.Image:
    """A copy with white dashed boxes, the dashes rimmed dark to show on light pixels as well.

    Args:
        scale: pixels of the picture per pixel of the boxes.
    """
    result = picture.copy()
    draw = ImageDraw.Draw(result)
    thick = max(2, round(picture.width / 130))
    for box in boxes:
        left, top, right, bottom = (round(scale * edge) for edge in box)
        right, bottom = min(right, picture.width), min(bottom, picture.height)
        edges = [
            (left, top, right, top + thick),
            (left, bottom - thick, right, bottom),
            (left, top, left + thick, bottom),
            (right - thick, top, right, bottom),
        ]
        dashes = [dash for edge in edges for dash in _dashes(edge, 5 * thick, 3 * thick)]
        for x0, y0, x1, y1 in dashes:
            draw.rectangle((x0 - 1, y0 - 1, x1 + 1, y1 + 1), fill=(0, 0, 0))
        for dash in dashes:
            draw.rectangle(dash, fill=(255, 255, 255))
    return result


def _dashes(
    edge: tuple[int, int, int, int], dash: int, gap: int
) -> list[tuple[int, int, int, int]]:
    """An edge (ends exclusive) in pieces as Pillow draws them (ends inclusive), one at each end."""
    x0, y0, x1, y1 = edge
    flat = x1 - x0 >= y1 - y0
    start, stop = (x0, x1) if flat else (y0, y1)
    gaps = round((stop - start - dash) / (dash + gap))
    if gaps < 1:
        return [(x0, y0, x1 - 1, y1 - 1)]
    step = (stop - start - dash) / gaps
    pieces = []
    for index in range(gaps + 1):
        first = round(start + index * step)
        last = min(first + dash, stop) - 1
        pieces.append((first, y0, last, y1 - 1) if flat else (x0, first, x1 - 1, last))
    return pieces
