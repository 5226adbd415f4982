"""Intersection over union of single masks and of pairs; :mod:`.miou` has that of whole data sets.

An empty union (nothing there, nothing found) counts 0 for masks: an evaluator may not reward a
prediction for a target that has no pixel.
"""

from __future__ import annotations

import math

import numpy as np
from numpy.typing import NDArray

#: Label of pixels that are unsure or not annotated.
UNSURE = 255


def mask_iou(predicted: NDArray[np.bool_], target: NDArray[np.bool_]) -> NDArray[np.float64]:
    """IoU of mask n with mask n, float64 ``(N,)``, both bool ``(N, H, W)``; 0/0 is 0."""
    assert predicted.dtype == target.dtype == np.bool_, (predicted.dtype, target.dtype)
    assert predicted.shape == target.shape and target.ndim == 3, (predicted.shape, target.shape)
    intersection = (predicted & target).sum(axis=(1, 2))
    union = (predicted | target).sum(axis=(1, 2))
    return divide(intersection, union)


def pairwise_iou(
    predicted: NDArray[np.bool_],
    target: NDArray[np.bool_],
    crowd: NDArray[np.bool_] | None = None,
) -> NDArray[np.float64]:
    """IoU of every mask with every mask, float64 ``(N, M)``; 0/0 is 0.

    Args:
        predicted: bool ``(N, H, W)``.
        target: bool ``(M, H, W)``.
        crowd: bool ``(M,)``: for these targets the prediction's own area is the denominator, as in
            COCO's evaluation, since a crowd region covers many objects.
    """
    assert predicted.shape[1:] == target.shape[1:], (predicted.shape, target.shape)
    # float64 products of 0/1 vectors are exact counts up to 2**53 pixels
    pixels = math.prod(target.shape[1:])  # written out: -1 fails for zero masks
    a = predicted.reshape(len(predicted), pixels).astype(np.float64)  # (N, P)
    b = target.reshape(len(target), pixels).astype(np.float64)  # (M, P)
    intersection = a @ b.T
    area = np.broadcast_to(a.sum(1)[:, None], intersection.shape)
    union = area + b.sum(1)[None, :] - intersection
    if crowd is not None:
        union = np.where(np.asarray(crowd, dtype=bool)[None, :], area, union)
    return divide(intersection, union)


def divide(
    numerator: NDArray[np.number], denominator: NDArray[np.number], *, empty: float = 0.0
) -> NDArray[np.float64]:
    """``numerator / denominator`` in float64, ``empty`` where the denominator is 0."""
    out = np.full(numerator.shape, empty, dtype=np.float64)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out
