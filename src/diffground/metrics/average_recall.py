"""Average Recall of panoptic narrative grounding, in the three ways it has been computed.

**The number.** Recall at threshold t is the share of phrases whose IoU is at least t, and AR the
area under that curve. Public evaluators sum it over 100,000 thresholds; the area under a survival
function is the mean, so AR is computed here as the mean IoU over *phrases* (each occurrence in each
narrative counts once). The two agree within one threshold step, 1e-5.

**The yardstick.** Published rows measure the IoU on different grids, which alone moves small
objects by 0.3; the protocol therefore stands beside every number:

==========  =====================================  ====================================  ==========
protocol    prediction                             target                                IoU
==========  =====================================  ====================================  ==========
original    bilinear to (H, W), > threshold        as annotated                          hard
ppmn        bilinear to the detector's test size,  same way, then > 0 (grows objects)    hard
            padded, bilinear x 0.25, > threshold
png_soft    bilinear to 256 x 256 and to (H, W)    same way                              soft
==========  =====================================  ====================================  ==========

The detector's test size: short side 800, long side at most 1333, padded with zeros to multiples of
32. Resizing is never antialiased. The soft IoU is ``sum(p t) / sum(p + t - p t)``; it stays below 1
for a perfect prediction with blurred edges. An empty union (0/0) counts 0 in all three.

A perfect prediction of a disc about pixel (320, 240) of a 640 x 480 image scores, for radius
5/10/20/40/80/160 px, under ppmn .62/.82/.93/.95/.98/.99 and under png_soft
.66/.82/.90/.95/.97/.99. For the smallest disc it matters where it lies on the grid: half a pixel
further, about (319.5, 239.5), ppmn gives .78 for radius 5.

**The groups.** Things and stuff make up all phrases, so do singulars and plurals. Which phrase is
which is decided in :func:`phrase_groups` and nowhere else. Where nouns were held out of a training,
so do the phrases of seen and of held-out nouns; these two groups are ours.
"""

from __future__ import annotations

import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any, Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffground.config import PluralRule, Protocol
from diffground.metrics.iou import divide

# Raised when the same masks are measured to be others.
CODE_VERSION: Final = 1

Key = tuple[str | int, int]

GROUPS = ("overall", "things", "stuff", "singulars", "plurals")
NOUN_GROUPS = ("seen nouns", "held-out nouns")  # only of phrases that say which they are

_SHORT, _LONG, _STRIDE = 800, 1333, 32  # the detector's test size, pixels
_SOFT_SIDE = 256
_AT_ONCE = 8  # phrases resized at once: bounds the memory, changes no number
_SAME = 1e-6  # how far two results of one phrase may differ (batching changes float sums)


def phrase_groups(
    segments: int, plural_flag: bool, last_is_thing: bool, rule: PluralRule
) -> tuple[bool, bool]:
    """``(thing, plural)`` of a phrase with so many segment ids.

    ``count``: plural with two segments or more; thing if its last segment is one (PNG, PPMN and
    their successors). ``flag``: plural as annotated; every plural is a thing, a singular goes by
    its last segment (F-LMM). They differ for phrases flagged plural with one segment.
    """
    assert segments > 0, "a phrase without a segment is not evaluated"
    if rule == "count":
        return last_is_thing, segments > 1
    if rule == "flag":
        return plural_flag or last_is_thing, plural_flag
    raise ValueError(f"plural rule {rule!r}, expected 'count' or 'flag'")


def phrase_iou(
    prob: Tensor | NDArray[np.floating],
    target: Tensor | NDArray[np.bool_],
    protocol: Protocol,
    threshold: float = 0.5,
) -> NDArray[np.float64]:
    """IoU of each phrase's prediction with its mask, float64 ``(N,)``.

    Args:
        prob: float ``(N, h, w)`` in [0, 1], of any resolution, covering the whole image.
        target: bool ``(N, H, W)``, segments of plural phrases united.
        protocol: see the top of this module.
        threshold: a pixel is in the predicted mask when its probability is *above* it. png_soft
            does not binarise, there it must be left at 0.5.

    Raises:
        ValueError: shapes that do not fit, probabilities outside [0, 1] or NaN, an unknown
            protocol, a threshold for png_soft.
    """
    p = torch.as_tensor(prob).detach().float()  # (N, h, w)
    t = torch.as_tensor(target).to(p.device)  # (N, H, W)
    if p.ndim != 3 or t.ndim != 3 or len(p) != len(t):
        raise ValueError(f"prob {tuple(p.shape)} and target {tuple(t.shape)} do not fit")
    if t.dtype != torch.bool:
        raise ValueError(f"target is {t.dtype}, expected bool")
    if p.numel() and not (0 <= float(p.min()) and float(p.max()) <= 1):
        raise ValueError(f"prob outside [0, 1]: {float(p.min())} .. {float(p.max())}")
    if protocol not in ("original", "ppmn", "png_soft"):
        raise ValueError(f"protocol {protocol!r}, expected original, ppmn or png_soft")
    if protocol == "png_soft" and threshold != 0.5:
        raise ValueError(f"png_soft is not binarised, threshold {threshold} would be ignored")
    parts = [
        _slab_iou(p[start : start + _AT_ONCE], t[start : start + _AT_ONCE], protocol, threshold)
        for start in range(0, len(p), _AT_ONCE)
    ]
    return np.concatenate(parts) if parts else np.zeros(0)


def _slab_iou(p: Tensor, t: Tensor, protocol: Protocol, threshold: float) -> NDArray[np.float64]:
    """:func:`phrase_iou` for the few phrases that are resized at once."""
    height, width = t.shape[1:]
    if protocol == "png_soft":
        soft_p = _bilinear(_bilinear(p, (_SOFT_SIDE, _SOFT_SIDE)), (height, width)).double()
        soft_t = _bilinear(_bilinear(t.float(), (_SOFT_SIDE, _SOFT_SIDE)), (height, width)).double()
        product = soft_p * soft_t
        return _ratio(product, soft_p + soft_t - product)
    if protocol == "original":
        hard_p, hard_t = _bilinear(p, (height, width)) > threshold, t
    else:
        hard_p = _detector_grid(p, height, width) > threshold
        hard_t = _detector_grid(t.float(), height, width) > 0
    return _ratio(hard_p & hard_t, hard_p | hard_t)


def _detector_grid(maps: Tensor, height: int, width: int) -> Tensor:
    """Maps over an (H, W) image on a quarter of the detector's padded input, ``(N, h, w)``."""
    scale = _SHORT / min(height, width)
    if scale * max(height, width) > _LONG:
        scale = _LONG / max(height, width)
    size = (int(height * scale + 0.5), int(width * scale + 0.5))
    maps = _bilinear(maps, size)
    maps = functional.pad(maps, (0, -size[1] % _STRIDE, 0, -size[0] % _STRIDE))
    return _bilinear(maps, (maps.shape[1] // 4, maps.shape[2] // 4))


def _bilinear(maps: Tensor, size: tuple[int, int]) -> Tensor:
    """Maps ``(N, h, w)`` at another size; pixel centres aligned, not antialiased."""
    if tuple(maps.shape[1:]) == size:
        return maps
    return functional.interpolate(maps[None], size=size, mode="bilinear", align_corners=False)[0]


def _ratio(intersection: Tensor, union: Tensor) -> NDArray[np.float64]:
    """Sum over pixels of one divided by that of the other, 0/0 = 0."""
    top, bottom = intersection.sum((1, 2)), union.sum((1, 2))
    return divide(top.double().cpu().numpy(), bottom.double().cpu().numpy())


class _Entry(NamedTuple):
    iou: float
    thing: bool
    plural: bool
    held_out: bool | None


class AverageRecall:
    """Collects phrase IoUs; the result depends on neither order, batching nor duplicates.

    Results are kept by key, so that the repeats with which a distributed sampler pads the last
    batch count once.
    """

    def __init__(self, protocol: Protocol = "original", plural_rule: PluralRule = "count") -> None:
        """Empty; the two settings only label the numbers."""
        self.protocol, self.plural_rule = protocol, plural_rule
        self._entries: dict[Key, _Entry] = {}

    def update(
        self, key: Key, iou: float, *, thing: bool, plural: bool, held_out: bool | None = None
    ) -> None:
        """Notes one phrase.

        Args:
            key: (narrative, phrase): the sample's id or row, and the phrase's index in it.
            iou: in [0, 1], from :func:`phrase_iou`.
            thing, plural: from :func:`phrase_groups`.
            held_out: whether it is of a noun that was held out of the training; None, of all
                phrases, where none was.

        Raises:
            ValueError: an IoU outside [0, 1] or NaN, or a key noted before with another result.
        """
        iou = float(iou)
        if not -_SAME <= iou <= 1 + _SAME:
            raise ValueError(f"phrase {key}: IoU {iou} is not in [0, 1]")
        entry = _Entry(min(max(iou, 0.0), 1.0), bool(thing), bool(plural), held_out)
        earlier = self._entries.get(key)
        if earlier is not None:
            if earlier[1:] != entry[1:] or abs(earlier.iou - entry.iou) > _SAME:
                raise ValueError(f"phrase {key} has two results: {earlier} and {entry}")
            entry = max(earlier, entry)  # the same one whichever came first
        self._entries[key] = entry

    @property
    def phrases(self) -> int:
        """How many phrases were noted."""
        return len(self._entries)

    def counts(self) -> dict[str, int]:
        """How many phrases each group has."""
        return {group: len(values) for group, values in self._grouped().items()}

    def result(self) -> dict[str, float | None]:
        """AR in percent of each group; None for a group without a phrase."""
        return {
            # fsum is exact, hence the same in any order
            group: 100 * math.fsum(values) / len(values) if values else None
            for group, values in self._grouped().items()
        }

    def curve(self, thresholds: Sequence[float]) -> dict[str, list[float] | None]:
        """Recall in [0, 1] of each group at each IoU threshold (reached, not surpassed)."""
        at = np.asarray(thresholds, dtype=np.float64)
        curves: dict[str, list[float] | None] = {}
        for group, values in self._grouped().items():
            below = np.searchsorted(np.sort(values), at, side="left")
            curves[group] = (1 - below / len(values)).tolist() if values else None
        return curves

    @classmethod
    def from_rows(
        cls,
        rows: Iterable[Mapping[str, Any]],
        protocol: Protocol = "original",
        plural_rule: PluralRule = "count",
    ) -> AverageRecall:
        """Of rows with narrative, phrase, iou, thing, plural and perhaps held_out, as an evaluation
        keeps them.
        """
        recall = cls(protocol, plural_rule)
        for row in rows:
            key, held_out = (row["narrative"], row["phrase"]), row.get("held_out")
            recall.update(
                key, row["iou"], thing=row["thing"], plural=row["plural"], held_out=held_out
            )
        return recall

    def _grouped(self) -> dict[str, list[float]]:
        """The IoUs of each group: :data:`NOUN_GROUPS` only where nouns were held out."""
        told = {entry.held_out is not None for entry in self._entries.values()}
        assert len(told) < 2, "nouns are held out of all phrases, or of none"
        nouns = NOUN_GROUPS if True in told else ()
        grouped: dict[str, list[float]] = {group: [] for group in (*GROUPS, *nouns)}
        for entry in self._entries.values():
            names = ["overall", "things" if entry.thing else "stuff"]
            names.append("plurals" if entry.plural else "singulars")
            if entry.held_out is not None:
                names.append(NOUN_GROUPS[entry.held_out])
            for group in names:
                grouped[group].append(entry.iou)
        return grouped
