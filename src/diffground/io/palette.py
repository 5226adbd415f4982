"""The colours in which label masks are shown: those of the PASCAL VOC development kit."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray


def colour_map() -> NDArray[np.uint8]:
    """The colour of every label, RGB (256, 3): bit ``3 k + c`` of the label goes to bit ``7 - k``
    of channel ``c``."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for k in range(8):
        for c in range(3):
            colours[:, c] |= ((labels >> (3 * k + c)) & 1) << (7 - k)
    return colours.astype(np.uint8)
