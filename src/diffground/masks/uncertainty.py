"""Which pixels are uncertain, and labels as a picture (Text2Mask, 002, Figures 4 and B.7).

The paper marks a pixel as uncertain "within the 0.05 interval of the interface", that is, where two
labels meet. Paper and public code can be read differently:

- ``compat: paper``: from the attention scores, the two best labels are less than 0.05 apart;
- ``compat: official``: from the CRF's posterior, the best label has less than 1 - 0.05, as in the
  pseudo masks that the public code saves.

``K`` classes, so K + 1 labels with the background first
"""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffground.config import Compat
from diffground.io.labels import colour_map
from diffground.metrics.iou import UNSURE

INTERVAL = 0.05
WHITE = 255


def uncertain(
    scores: NDArray[np.floating], compat: Compat, interval: float = INTERVAL
) -> NDArray[np.bool_]:
    """The uncertain pixels, bool ``(H, W)``.

    Args:
        scores: ``(K + 1, H, W)`` in [0, 1]: attention scores with the background's for ``paper``,
            the posterior of the CRF for ``official``.
        compat: see the top of this module.
        interval: how close to the border between two labels, in units of the scores.
    """
    assert scores.ndim == 3 and len(scores) > 0, scores.shape
    if compat == "official":
        return scores.max(axis=0) < 1 - interval
    if len(scores) == 1:  # no other label to meet
        return np.zeros(scores.shape[1:], bool)
    second, first = np.partition(scores, -2, axis=0)[-2:]
    return first - second < interval


def label_picture(labels: NDArray[np.uint8]) -> NDArray[np.uint8]:
    """Labels uint8 ``(H, W)`` in the VOC colours, RGB ``(H, W, 3)``; those of 255 are white."""
    picture = colour_map()[labels]
    picture[labels == UNSURE] = WHITE
    return picture
