"""The scores of semantic segmentation papers, streaming: mIoU, accuracies, and by image difficulty.

One confusion matrix over the whole data set, background included, ground truth 255 left out, by the
weakly supervised papers' conventions (the public code of Text2Mask, 002, and of the DeepLab it
trains):

- mIoU is the mean over the classes that occur *in the ground truth*: a class that is predicted, but
  nowhere true, does not count as one with IoU 0;
- mean accuracy (recall, the mean over the same classes), and IoU weighted by how often a class is;
- the same again for the images with 1, 2, ... classes besides the background.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffground.metrics.iou import UNSURE, divide


class Confusion:
    """Scores of label masks, one image at a time; the size depends on the classes only.

    Attributes:
        counts: number of classes in the image's ground truth -> pixels of such images, int64
            ``(C, C)``: ``[t, p]`` are those of class t labelled p.
        images: number of classes in the image's ground truth -> number of such images.
    """

    def __init__(self, classes: Sequence[str]) -> None:
        """No images yet. ``classes`` are the names of label 0 (the background), 1, ..."""
        assert 0 < len(classes) <= UNSURE, len(classes)
        self.classes = tuple(classes)
        self.counts: dict[int, NDArray[np.int64]] = {}
        self.images: Counter[int] = Counter()

    def update(self, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Adds one image, label masks ``(H, W)``.

        Raises ValueError for another size, a true label that is neither a class nor 255, or a
        predicted one that is no class; nothing of the image is then counted.
        """
        counts = self._count(prediction, truth)
        present = np.unique(truth)
        self._add(int(((present > 0) & (present != UNSURE)).sum()), counts, 1)

    def merge(self, other: Confusion) -> None:
        """Adds another part of the data set; ValueError if its classes differ."""
        if self.classes != other.classes:
            raise ValueError("the two differ in their classes")
        for number, counts in other.counts.items():
            self._add(number, counts, other.images[number])

    def result(self) -> dict[str, Any]:
        """JSON-ready, in percent, None where there is nothing to measure.

        ``"miou"``, ``"pixel_accuracy"``, ``"mean_accuracy"``, ``"fwiou"``; ``"iou"``: class -> IoU,
        None for a class that is not in the ground truth; ``"images"``; and ``"by_classes"``: number
        of classes in the image, as text -> ``{"miou", "pixel_accuracy", "images"}``.
        """
        by_classes = {}
        for number in sorted(self.counts):
            scores = _scores(self.counts[number])
            chosen = {key: scores[key] for key in ("miou", "pixel_accuracy")}
            by_classes[str(number)] = chosen | {"images": self.images[number]}
        size = len(self.classes)
        whole = sum(self.counts.values(), np.zeros((size, size), np.int64))
        iou = dict(zip(self.classes, _percent(_class_iou(whole)), strict=True))
        total = {"iou": iou, "images": self.images.total(), "by_classes": by_classes}
        return _scores(whole) | total

    def _count(self, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> NDArray[np.int64]:
        """The counts of one image."""
        if prediction.shape != truth.shape:
            raise ValueError(f"shapes differ: {prediction.shape} and {truth.shape}")
        known = truth != UNSURE
        size = len(self.classes)
        t, p = truth[known].astype(np.int64), prediction[known].astype(np.int64)
        for name, labels in (("target", t), ("predicted", p)):
            if labels.size and labels.max() >= size:
                raise ValueError(f"{name} label {labels.max()} is none of the {size} classes")
        return np.bincount(t * size + p, minlength=size * size).reshape(size, size)

    def _add(self, number: int, counts: NDArray[np.int64], images: int) -> None:
        self.counts[number] = self.counts.get(number, 0) + counts
        self.images[number] += images


def _class_iou(counts: NDArray[np.int64]) -> NDArray[np.float64]:
    """IoU ``(C,)``, NaN for a class that is not in the ground truth."""
    hit, true = np.diagonal(counts), counts.sum(axis=1)
    iou = divide(hit, true + counts.sum(axis=0) - hit, empty=np.nan)
    return np.where(true > 0, iou, np.nan)


def _scores(counts: NDArray[np.int64]) -> dict[str, Any]:
    """The four scores in percent, None without any pixel."""
    hit, true = np.diagonal(counts), counts.sum(axis=1)
    if not true.any():
        return dict.fromkeys(("miou", "pixel_accuracy", "mean_accuracy", "fwiou"))
    present, iou = true > 0, _class_iou(counts)
    accuracy = divide(hit, true, empty=np.nan)
    return {
        "miou": 100 * float(iou[present].mean()),
        "pixel_accuracy": 100 * float(hit.sum() / true.sum()),
        "mean_accuracy": 100 * float(accuracy[present].mean()),
        "fwiou": 100 * float((true[present] * iou[present]).sum() / true.sum()),
    }


def _percent(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else 100 * float(value) for value in values]
