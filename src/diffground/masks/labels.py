"""From the posterior of pixels to labels and confidence.

``K`` classes, so K + 1 labels with the background first
"""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray

from diffground.metrics.iou import UNSURE


def labels_of(
    posterior: NDArray[np.floating], label_ids: Sequence[int], threshold: float | None
) -> tuple[NDArray[np.uint8], NDArray[np.floating]]:
    """The likeliest label of every pixel, and how likely it is.

    Args:
        posterior: ``(K + 1, H, W)`` in [0, 1]; the first of equal labels wins.
        label_ids: the id of each of the K + 1 labels, 0 for the background, below 255.
        threshold: pixels whose confidence is *below* are labelled 255 (the public code's pseudo
            masks: 0.95); None labels every pixel (the public code's mIoU after the CRF).

    Returns:
        Labels uint8 ``(H, W)``, and the confidence ``(H, W)`` in the posterior's dtype.
    """
    assert posterior.ndim == 3 and len(posterior) == len(label_ids), posterior.shape
    assert all(0 <= label < UNSURE for label in label_ids), label_ids
    labels = np.array(label_ids, np.uint8)[posterior.argmax(axis=0)]
    confidence = posterior.max(axis=0)
    if threshold is not None:
        labels[confidence < threshold] = UNSURE
    return labels, confidence
