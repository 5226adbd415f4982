"""Which pixels are uncertain, and the picture of it (Text2Mask, 002, Figures 4 and B.7).

The paper marks a pixel as uncertain "within the 0.05 interval of the interface", that is, where two
labels meet. Paper and public code can be read differently:

- ``compat: paper``: from the attention scores, the two best labels are less than 0.05 apart;
- ``compat: official``: from the CRF's posterior, the best label has less than 1 - 0.05, as in the
  pseudo masks that the public code saves.

``K`` classes, so K + 1 labels with the background first
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffground.io.palette import colour_map
from diffground.masks.crf import Compat
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


def comparison_row(
    image: NDArray[np.uint8], masks: Sequence[NDArray[np.uint8]], gap: int = 4
) -> NDArray[np.uint8]:
    """One row of Figure 4: the image and its label masks side by side, the ground truth last.

    Args:
        image: uint8 RGB ``(H, W, 3)``.
        masks: label masks uint8 ``(H, W)``, say of several methods and the truth.
        gap: width of the white stripes between them, pixels.

    Returns:
        uint8 RGB ``(H, (1 + masks) W + masks gap, 3)``.
    """
    stripe = np.full((image.shape[0], gap, 3), WHITE, np.uint8)
    parts = [image]
    for labels in masks:
        assert labels.shape == image.shape[:2], (labels.shape, image.shape)
        parts += [stripe, label_picture(labels)]
    return np.concatenate(parts, axis=1)
