"""Who is which segment: answers of a method, the truth, and their scores (002, §5.3).

A method says how much each segment of a scene is what each query asks for. Two ways to answer:

- ``bf``: each object alone takes the segment that is most relevant to it;
- ``af``: the scene's objects share the segments out, so that the sum of relevances is largest (the
  Hungarian algorithm); an object may get none, where there are more objects than segments.

Ties go to the segment that comes first. Segments without a pixel are no answer. The truth "is
determined based on the relative relationship between the center positions of segments", of which
the paper says no more; :func:`match_centres` has two readings.

``Q`` queries · ``S`` segments · ``M`` instances of the truth · ``H, W`` pixels
"""

from __future__ import annotations

import math
from dataclasses import dataclass, field
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from scipy.optimize import linear_sum_assignment

from diffground.metrics.config import Matching

# Raised when the same relevances and masks give other scores.
CODE_VERSION: Final = 1

NOBODY: Final = -1  # in place of a segment's number


def answers(
    relevance: NDArray[np.float64], segments: NDArray[np.bool_], *, together: bool
) -> NDArray[np.int64]:
    """The segment that answers each query, int64 ``(Q,)``, or :data:`NOBODY`.

    Args:
        relevance: ``(Q, S)``, finite, higher is nearer.
        segments: bool ``(S, H, W)``.
        together: ``af``, else ``bf``.
    """
    queries, count = relevance.shape
    assert count == len(segments), (relevance.shape, segments.shape)
    assert np.isfinite(relevance).all(), "relevances are numbers"
    found = np.full(queries, NOBODY, np.int64)
    usable = np.flatnonzero(segments.any(axis=(1, 2)))
    if not len(usable):
        return found
    if together:
        rows, columns = linear_sum_assignment(relevance[:, usable], maximize=True)
        found[rows] = usable[columns]
    else:
        found[:] = usable[relevance[:, usable].argmax(axis=1)]
    return found


def match_centres(
    instances: NDArray[np.bool_], segments: NDArray[np.bool_], rule: Matching
) -> NDArray[np.int64]:
    """The segment that is each instance, int64 ``(M,)``, or :data:`NOBODY`.

    Every instance is at most one segment, and no two are the same. Masks without a pixel are
    nobody's. Rules:

    - ``distance``: the pairs whose centres are nearest in all (Hungarian, pixels);
    - ``order``: the same among pairs that keep the order from left to right. With as many segments
      as instances the first is the first, and so on.

    Args:
        instances: bool ``(M, H, W)``.
        segments: bool ``(S, H, W)``.
    """
    found = np.full(len(instances), NOBODY, np.int64)
    there = np.flatnonzero(instances.any(axis=(1, 2)))
    usable = np.flatnonzero(segments.any(axis=(1, 2)))
    if not len(there) or not len(usable):
        return found
    first, second = centres(instances[there]), centres(segments[usable])
    apart = np.linalg.norm(first[:, None] - second[None], axis=-1)  # (M, S)
    if rule == "distance":
        rows, columns = linear_sum_assignment(apart)
    else:
        left = np.argsort(first[:, 1], kind="stable"), np.argsort(second[:, 1], kind="stable")
        pairs = _in_order(apart[np.ix_(*left)])
        rows, columns = (order[part] for order, part in zip(left, pairs, strict=True))
    found[there[rows]] = usable[columns]
    return found


def centres(masks: NDArray[np.bool_]) -> NDArray[np.float64]:
    """Mean row and column of the pixels of each mask ``(M, H, W)``: ``(M, 2)``; none is empty."""
    sizes = masks.sum(axis=(1, 2))
    rows = masks.sum(axis=2) @ np.arange(masks.shape[1], dtype=np.float64)
    columns = masks.sum(axis=1) @ np.arange(masks.shape[2], dtype=np.float64)
    return np.stack([rows, columns], axis=1) / sizes[:, None]


def _in_order(apart: NDArray[np.float64]) -> tuple[list[int], list[int]]:
    """Pairs (i, j), both ascending, as many as can be, with the least sum of ``apart[i, j]``."""
    count, others = apart.shape
    if count > others:
        columns, rows = _in_order(apart.T)
        return rows, columns
    # best[i, j]: the least sum for the first i, each of which has one of the first j
    best = np.full((count + 1, others + 1), math.inf)
    best[0] = 0.0
    for i in range(1, count + 1):
        for j in range(i, others + 1):
            best[i, j] = min(best[i, j - 1], best[i - 1, j - 1] + apart[i - 1, j - 1])
    pairs, j = [], others
    for i in range(count, 0, -1):
        while best[i, j] == best[i, j - 1]:
            j -= 1
        pairs.append((i - 1, j - 1))
        j -= 1
    pairs.reverse()
    return [i for i, _ in pairs], [j for _, j in pairs]


@dataclass
class ReferringScores:
    """Scores of triplets, one at a time.

    In the paper's tables mIoU is that of ``af``: Mask R-CNN, whose masks are the truth, has an
    mIoU that equals its af_acc to the digit (and not its bf_acc), which also says that it is the
    mean over triplets: pixels summed over the data set would count a wrong answer twice.
    """

    ious: dict[str, list[float]] = field(default_factory=lambda: {"af": [], "bf": [], "bound": []})
    right: dict[str, int] = field(default_factory=lambda: {"af": 0, "bf": 0})
    pixels: NDArray[np.int64] = field(default_factory=lambda: np.zeros(2, np.int64))

    def update(
        self,
        target: NDArray[np.bool_],
        segments: NDArray[np.bool_],
        *,
        bf: int,
        af: int,
        truth: int,
    ) -> None:
        """Adds a triplet.

        Args:
            target: where the wanted object is, bool ``(H, W)``.
            segments: bool ``(S, H, W)``.
            bf, af: the answers, of :func:`answers`.
            truth: the segment that is the wanted object, of :func:`match_centres`.
        """
        for name, answer in (("af", af), ("bf", bf), ("bound", truth)):
            mask = segments[answer] if answer != NOBODY else np.zeros_like(target)
            shared, either = int((mask & target).sum()), int((mask | target).sum())
            self.ious[name].append(shared / either if either else 0.0)
            if name == "af":
                self.pixels += (shared, either)
        self.right["bf"] += bf == truth != NOBODY
        self.right["af"] += af == truth != NOBODY

    def merge(self, other: ReferringScores) -> None:
        """Adds another part of the data."""
        for name, values in other.ious.items():
            self.ious[name] += values
        for name, count in other.right.items():
            self.right[name] += count
        self.pixels += other.pixels

    def result(self) -> dict[str, Any]:
        """JSON-ready, in percent; None without a triplet.

        - ``mIoU``: mean over triplets of the IoU of the answer under ``af``; an object without an
          answer has 0;
        - ``mIoU, dataset``: all triplets' intersections over all their unions, under ``af``;
        - ``mIoU, bf``: as ``mIoU``, of the answer that each object gets alone;
        - ``bf_acc``, ``af_acc``: triplets whose answer is the segment that is the object; an object
          that is no segment is never right;
        - ``bound``: as ``mIoU``, if every answer were right: what the segments are worth;
        - ``triplets``: how many.
        """
        count = len(self.ious["af"])

        def percent(part: float, whole: float) -> float | None:
            return 100 * part / whole if whole else None

        return {
            "mIoU": percent(math.fsum(self.ious["af"]), count),
            "mIoU, dataset": percent(int(self.pixels[0]), int(self.pixels[1])),
            "mIoU, bf": percent(math.fsum(self.ious["bf"]), count),
            "bf_acc": percent(self.right["bf"], count),
            "af_acc": percent(self.right["af"], count),
            "bound": percent(math.fsum(self.ious["bound"]), count),
            "triplets": count,
        }
