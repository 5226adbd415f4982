"""AP50 of instance segmentation: COCO's average precision at mask IoU 0.5.

Per category, predictions of all images are taken by falling score; each takes the unclaimed target
of its image with the highest IoU, if that is at least the threshold. Precision, made
non-increasing from the right, is averaged over 101 recall levels. Crowd targets are no objects to
find: a prediction that fits one only is left out of the count. The mean goes over the categories
that have a target.
"""

from __future__ import annotations

from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray

from diffground.metrics.iou import pairwise_iou

THRESHOLD = 0.5
MAX_PREDICTIONS = 100  # per image and category, those of highest score, as in COCO
_RECALLS = np.linspace(0.0, 1.0, 101)


class Instances(NamedTuple):
    """Instance masks of one image.

    Attributes:
        masks: bool ``(N, H, W)``.
        categories: int ``(N,)``.
        scores: float ``(N,)`` for predictions, None for targets.
        crowd: bool ``(N,)`` for targets, None = no crowd.
    """

    masks: NDArray[np.bool_]
    categories: NDArray[np.integer]
    scores: NDArray[np.floating] | None = None
    crowd: NDArray[np.bool_] | None = None


class _Claims(NamedTuple):
    """What became of one image's predictions of one category, by falling score."""

    scores: NDArray[np.float64]
    hit: NDArray[np.bool_]
    left_out: NDArray[np.bool_]


class AveragePrecision:
    """Collects images; ``update`` matches, ``result`` integrates."""

    def __init__(self) -> None:
        self._claims: dict[int, dict[str, _Claims]] = {}
        self._targets: dict[int, int] = {}
        self._images: set[str] = set()

    def update(self, image: str, predicted: Instances, target: Instances) -> None:
        """Adds one image; ValueError if it was added before or its parts do not fit."""
        if image in self._images:
            raise ValueError(f"image {image!r} was added before")
        if predicted.scores is None:
            raise ValueError(f"image {image!r}: predictions need scores")
        for name, part in (("predicted", predicted), ("target", target)):
            lengths = {len(field) for field in part if field is not None}
            if len(lengths) != 1:
                raise ValueError(f"image {image!r}: {name} fields of lengths {sorted(lengths)}")
        self._images.add(image)
        crowd = np.zeros(len(target.masks), bool) if target.crowd is None else target.crowd
        for category in {*predicted.categories.tolist(), *target.categories.tolist()}:
            mine, theirs = predicted.categories == category, target.categories == category
            here = crowd[theirs].astype(bool)
            self._targets[category] = self._targets.get(category, 0) + int((~here).sum())
            # a stable sort: equal scores keep the order in which they were given
            order = np.argsort(-predicted.scores[mine], kind="stable")[:MAX_PREDICTIONS]
            iou = pairwise_iou(predicted.masks[mine][order], target.masks[theirs], here)
            hit, left_out = _match(iou, here)
            scores = predicted.scores[mine][order].astype(np.float64)
            self._claims.setdefault(category, {})[image] = _Claims(scores, hit, left_out)

    def per_category(self) -> dict[int, float]:
        """AP in [0, 1] of each category that has a target, by rising category."""
        return {
            category: self._average(category)
            for category in sorted(self._targets)
            if self._targets[category]
        }

    def result(self) -> float | None:
        """Mean AP in percent over the categories that have a target; None without any."""
        values = list(self.per_category().values())
        return 100 * float(np.mean(values)) if values else None

    def _average(self, category: int) -> float:
        """Area under one category's precision-recall curve."""
        # images in the order of their names: the same for any order of updates
        claims = [claim for _, claim in sorted(self._claims[category].items())]
        scores = np.concatenate([claim.scores for claim in claims])
        hit = np.concatenate([claim.hit for claim in claims])
        counted = ~np.concatenate([claim.left_out for claim in claims])
        order = np.argsort(-scores, kind="stable")
        hit, counted = hit[order], counted[order]
        true = np.cumsum(hit & counted)
        false = np.cumsum(~hit & counted)
        recall = true / self._targets[category]
        precision = true / np.maximum(true + false, 1)
        # at each recall, the best precision that some later point still has
        precision = np.maximum.accumulate(precision[::-1])[::-1]
        at = np.searchsorted(recall, _RECALLS, side="left")
        reached = at < len(precision)
        return float(precision[at[reached]].sum() / len(_RECALLS))


def _match(
    iou: NDArray[np.float64], crowd: NDArray[np.bool_]
) -> tuple[NDArray[np.bool_], NDArray[np.bool_]]:
    """``(hit, left_out)`` bool ``(N,)`` for predictions in falling order of score.

    ``iou`` is ``(N, M)``. An ordinary target is claimed once and comes before any crowd; a crowd
    may be fitted by many.
    """
    hit, left_out = np.zeros(len(iou), bool), np.zeros(len(iou), bool)
    free = ~crowd
    for row, values in enumerate(iou):
        fits = values >= THRESHOLD
        if (fits & free).any():
            best = int(np.argmax(np.where(free, values, -1.0)))
            free[best] = False
            hit[row] = True
        elif (fits & crowd).any():
            left_out[row] = True
    return hit, left_out
