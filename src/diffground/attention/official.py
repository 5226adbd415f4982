"""What Text2Mask's public code does and its paper (002) does not say: steps of compat ``official``.

``K`` classes · ``h, w`` the grid of the self layer · ``H, W`` pixels of the image

The paper's sentences are §3.2 (eq. 3, 4) and §5.1; each function says what the code adds to them.
"""

from __future__ import annotations

import numpy as np
import torch
from scipy import ndimage
from torch import Tensor

#: Colour of the padding at the right and the bottom: the mean pixel of ImageNet, as in CLIP-ES.
PAD_COLOUR = (123, 117, 104)

# The long side in units of an eighth of the model's own side (64 px of 512), by aspect ratio: the
# first row whose ratio is exceeded. 16/7 is irregular beside 15/8 and 14/8, and kept as it is.
_LONG_SIDES = ((16 / 7, 16), (15 / 8, 15), (14 / 8, 14), (13 / 9, 13), (12 / 10, 12), (0.0, 11))
_EIGHTHS = 8

# Neighbours of a pixel, diagonals included: what contour following calls connected.
_EIGHT = np.ones((3, 3), dtype=bool)


def long_side(height: int, width: int, native: int = 512) -> int:
    """Pixels of the longer side that an image is resized to; for 512: 704 (square) to 1024.

    The paper only says that images are rescaled to the model's requirements (§5.1). ``native`` is
    the side that the model was trained at; the code knows 512 only, the other sides are scaled.
    """
    ratio = max(height / width, width / height)
    return native * next(k for limit, k in _LONG_SIDES if ratio > limit) // _EIGHTHS


def shrunk_side(short: int, long: int, target: int) -> int:
    """Pixels of the shorter side when ``long`` becomes ``target``: rounded down, at least 1.

    In whole numbers, multiplied first as in the code: ``target * (short / long)`` loses a pixel
    where the quotient is no binary fraction (640 x 338: 507 of 960 pixels, not 506).
    """
    return max(1, target * short // long)


def box_mask(cross: Tensor, threshold: float) -> Tensor:
    """Where a class may pass attention on: bool (K, h, w), of Cross (K, h, w) in [0, 1].

    The class-aware affinity of CLIP-ES, in no sentence of the paper: the union of the bounding
    boxes of everything above ``threshold`` of a map's maximum (0.2 for VOC, 0.5 for COCO), in maps
    of 256 levels. The last row and the last column never belong to it: the code clips a box's
    exclusive end to the last index. A map without any value above has an empty mask.

    The code boxes the contours of a binary picture, outer ones and those of holes. An outer contour
    has the box of its 8-connected component; a hole's runs on pixels of the component around it,
    so its box lies inside that one's and adds nothing. Components are therefore all it takes.
    """
    levels = (cross.detach().float().cpu().numpy() * 255).astype(np.uint8)
    height, width = cross.shape[-2:]
    mask = np.zeros(cross.shape, dtype=bool)
    for one, grid in zip(mask, levels, strict=True):
        above = grid > int(threshold * int(grid.max()))
        components, _ = ndimage.label(above, structure=_EIGHT)
        for rows, columns in ndimage.find_objects(components):
            one[
                rows.start : min(rows.stop, height - 1),
                columns.start : min(columns.stop, width - 1),
            ] = True
    return torch.from_numpy(mask).to(cross.device)
