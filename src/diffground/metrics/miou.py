"""The scores of semantic segmentation papers, streaming: mIoU, accuracies, and by image difficulty.

One confusion matrix over the whole data set, background included, ground truth 255 left out. What
this adds to :class:`~diffground.metrics.iou.ConfusionMatrix` are the weakly supervised papers'
conventions (the public code of Text2Mask, 002, and of the DeepLab it trains):

- mIoU is the mean over the classes that occur *in the ground truth*: a class that is predicted, but
  nowhere true, does not count as one with IoU 0;
- mean accuracy (recall, the mean over the same classes), and IoU weighted by how often a class is;
- the same again for the images with 1, 2, ... classes besides the background.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffground.metrics.iou import UNSURE, ConfusionMatrix, UnsurePrediction, divide


class Confusion:
    """Scores of label masks, one image at a time; the size depends on the classes only.

    Attributes:
        whole: the matrix of all images.
        buckets: number of classes in the image's ground truth -> matrix of such images.
        images: number of classes in the image's ground truth -> number of such images.
    """

    def __init__(
        self,
        classes: Sequence[str],
        *,
        unsure: UnsurePrediction = "error",
    ) -> None:
        """No images yet.

        Args:
            classes: name of label 0 (the background), 1, ...
            unsure: what a *predicted* 255 means, as in
                :class:`~diffground.metrics.iou.ConfusionMatrix`.
        """
        self.whole = ConfusionMatrix(classes, unsure=unsure)
        self.buckets: dict[int, ConfusionMatrix] = {}
        self.images: dict[int, int] = {}

    def update(self, prediction: NDArray[np.uint8], truth: NDArray[np.uint8]) -> None:
        """Adds one image, label masks ``(H, W)``.

        Raises ValueError for another size, or a label that is neither a class nor 255; nothing of
        the image is then counted.
        """
        image = ConfusionMatrix(self.whole.classes, unsure=self.whole.unsure)
        image.update(prediction, truth)
        present = np.unique(truth)
        count = int(((present > 0) & (present != UNSURE)).sum())
        self.whole.merge(image)
        self._bucket(count).merge(image)
        self.images[count] = self.images.get(count, 0) + 1

    def merge(self, other: Confusion) -> None:
        """Adds another part of the data set; ValueError if its classes or options differ."""
        self.whole.merge(other.whole)
        for count, matrix in other.buckets.items():
            self._bucket(count).merge(matrix)
            self.images[count] = self.images.get(count, 0) + other.images[count]

    def result(self) -> dict[str, Any]:
        """JSON-ready, in percent, None where there is nothing to measure.

        ``"miou"``, ``"pixel_accuracy"``, ``"mean_accuracy"``, ``"fwiou"``; ``"iou"``: class -> IoU,
        None for a class that is not in the ground truth; ``"images"``; and ``"by_classes"``: number
        of classes in the image, as text -> ``{"miou", "pixel_accuracy", "images"}``.
        """
        by_classes = {}
        for count in sorted(self.buckets):
            scores = _scores(self.buckets[count])
            chosen = {key: scores[key] for key in ("miou", "pixel_accuracy")}
            by_classes[str(count)] = chosen | {"images": self.images[count]}
        iou = dict(zip(self.whole.classes, _percent(_class_iou(self.whole)), strict=True))
        total = {"iou": iou, "images": sum(self.images.values()), "by_classes": by_classes}
        return _scores(self.whole) | total

    def _bucket(self, count: int) -> ConfusionMatrix:
        if count not in self.buckets:
            self.buckets[count] = ConfusionMatrix(self.whole.classes, unsure=self.whole.unsure)
        return self.buckets[count]


def _class_iou(matrix: ConfusionMatrix) -> NDArray[np.float64]:
    """IoU ``(C,)``, NaN for a class that is not in the ground truth."""
    return np.where(matrix.counts.sum(axis=1) > 0, matrix.iou(), np.nan)


def _scores(matrix: ConfusionMatrix) -> dict[str, Any]:
    """The four scores in percent, None without any pixel."""
    true = matrix.counts.sum(axis=1)
    if not true.any():
        return dict.fromkeys(("miou", "pixel_accuracy", "mean_accuracy", "fwiou"))
    present, iou = true > 0, _class_iou(matrix)
    accuracy = divide(np.diagonal(matrix.counts), true, empty=np.nan)
    pixels = matrix.pixel_accuracy()
    assert pixels is not None
    return {
        "miou": 100 * float(iou[present].mean()),
        "pixel_accuracy": 100 * pixels,
        "mean_accuracy": 100 * float(accuracy[present].mean()),
        "fwiou": 100 * float((true[present] * iou[present]).sum() / true.sum()),
    }


def _percent(values: NDArray[np.float64]) -> list[float | None]:
    return [None if np.isnan(value) else 100 * float(value) for value in values]
