"""Intersection over union: of single masks, of pairs, and of whole data sets (mIoU).

An empty union (nothing there, nothing found) counts 0 for masks: an evaluator may not reward a
prediction for a target that has no pixel. For classes of a data set it is NaN, and the mean leaves
the class out: a class that neither occurs nor is predicted says nothing.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Literal

import numpy as np
from numpy.typing import NDArray

#: Label of pixels that are unsure or not annotated.
UNSURE = 255

UnsurePrediction = Literal["error", "wrong", "ignore"]


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


class ConfusionMatrix:
    """Data-set mIoU from label masks, one image at a time.

    Attributes:
        counts: int64 ``(C, C + 1)``, ``counts[t, p]`` pixels of class t labelled p; the last
            column holds the pixels of class t that the prediction left unsure.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        ignore: int = UNSURE,
        unsure: UnsurePrediction = "error",
    ) -> None:
        """An empty matrix.

        Args:
            classes: name of label 0, 1, ... (the background is a class like any other).
            ignore: label of target pixels that are left out.
            unsure: what a *prediction* of ``ignore`` means on a pixel whose target is known:
                ``"error"``, ``"wrong"`` (a miss of the target's class), or ``"ignore"``.
        """
        assert 0 < len(classes) <= ignore, (len(classes), ignore)
        self.classes, self.ignore, self.unsure = tuple(classes), ignore, unsure
        self.counts = np.zeros((len(classes), len(classes) + 1), dtype=np.int64)

    def update(self, predicted: NDArray[np.uint8], target: NDArray[np.uint8]) -> None:
        """Adds one image (or a stack), label masks of one shape.

        Raises ValueError for a label that is neither a class nor, where allowed, ``ignore``.
        """
        if predicted.shape != target.shape:
            raise ValueError(f"shapes differ: {predicted.shape} and {target.shape}")
        known = target != self.ignore
        if self.unsure == "ignore":
            known &= predicted != self.ignore
        size = len(self.classes)
        t = target[known].astype(np.int64)
        p = predicted[known].astype(np.int64)
        if self.unsure == "wrong":
            p[p == self.ignore] = size
        allowed = size + (self.unsure == "wrong")
        for name, labels, limit in (("target", t, size), ("predicted", p, allowed)):
            if labels.size and (labels.min() < 0 or labels.max() >= limit):
                bad = int(labels.max() if labels.max() >= limit else labels.min())
                raise ValueError(f"{name} label {bad} is none of the {size} classes")
        flat = np.bincount(t * (size + 1) + p, minlength=self.counts.size)
        self.counts += flat.reshape(self.counts.shape)

    def merge(self, other: ConfusionMatrix) -> None:
        """Adds the counts of another part of the data set (another shard or process)."""
        mine = (self.classes, self.ignore, self.unsure)
        if mine != (other.classes, other.ignore, other.unsure):
            raise ValueError("the two matrices differ in their classes or options")
        self.counts += other.counts

    def iou(self) -> NDArray[np.float64]:
        """IoU of each class over all pixels seen, float64 ``(C,)``; NaN for an absent class."""
        hit = np.diagonal(self.counts)
        size = len(self.classes)
        union = self.counts.sum(1) + self.counts[:, :size].sum(0) - hit
        return divide(hit, union, empty=np.nan)

    def miou(self) -> float | None:
        """Mean of :meth:`iou` over the classes that are not absent; None if all are."""
        values = self.iou()
        present = values[~np.isnan(values)]
        return float(present.mean()) if present.size else None

    def pixel_accuracy(self) -> float | None:
        """Share of the counted pixels with the right label; None without any pixel."""
        total = int(self.counts.sum())
        return float(np.diagonal(self.counts).sum() / total) if total else None

    def result(self) -> dict[str, float | None]:
        """Percent: ``"miou"``, ``"pixel_accuracy"`` and one entry per class, None if absent."""
        named: dict[str, float | None] = {
            "miou": self.miou(),
            "pixel_accuracy": self.pixel_accuracy(),
        }
        for name, value in zip(self.classes, self.iou(), strict=True):
            named[f"iou/{name}"] = None if np.isnan(value) else float(value)
        return {key: None if value is None else 100 * value for key, value in named.items()}


def divide(
    numerator: NDArray[np.number], denominator: NDArray[np.number], *, empty: float = 0.0
) -> NDArray[np.float64]:
    """``numerator / denominator`` in float64, ``empty`` where the denominator is 0."""
    out = np.full(numerator.shape, empty, dtype=np.float64)
    np.divide(numerator, denominator, out=out, where=denominator != 0)
    return out
