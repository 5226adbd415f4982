"""How well masks of class names are found in synthetic samples, against the detector's.

A mask is where a grounder's score is above its threshold: 0.5 for a module's probabilities, as in
the public codes. Scores are summed up image by image (:mod:`diffground.metrics.class_masks`).

``N`` names of a sample · ``H, W`` its picture
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final, Protocol

import numpy as np
from numpy.typing import NDArray

from diffground.errors import InputError
from diffground.metrics.class_masks import ClassMasks
from diffground.papers.grounded.learning_config import MeasuringConfig
from diffground.papers.grounded.samples import Sample, Samples
from diffground.progress import progress
from diffground.provenance import Made
from diffground.reporting.few import evenly
from diffground.reporting.scale import Scale

# Raised when the same masks get other scores, here or in `class_masks`.
CODE_VERSION: Final = 1


class Grounder(Protocol):
    """What finds masks: a trained module, or DAAM."""

    @property
    def threshold(self) -> float:
        """Above it a pixel is in the mask."""

    def scores(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """Of each sample, (N, H, W) for its names, in [0, 1]."""


@dataclass(frozen=True, eq=False)
class Prediction:
    """A sample, and the masks (N, H, W) that were found in it."""

    sample: Sample
    masks: NDArray[np.bool_]


def predictions(grounder: Grounder, samples: Samples, batch: int) -> Iterator[Prediction]:
    """Of all samples, in order; ``batch`` of them are in memory."""
    for start in range(0, len(samples), batch):
        yield from _of_batch(grounder, list(samples[start : start + batch]))


def _of_batch(grounder: Grounder, part: Sequence[Sample]) -> Iterator[Prediction]:
    for sample, scores in zip(part, grounder.scores(part), strict=True):
        yield Prediction(sample, scores > grounder.threshold)


def measure(
    grounder: Grounder,
    samples: Samples,
    *,
    batch: int = 1,
    what: str = "samples",
    hidden: bool = False,
) -> ClassMasks:
    """The scores of all samples; ``batch`` changes nothing but the time it takes.

    Args:
        what: the samples are, for the progress, which ``hidden`` does not show.

    Raises:
        InputError: there is no sample.
    """
    if not len(samples):
        reason = "no sample was taken of it: generate more, or ask less of them"
        raise InputError(samples.source.folder, "samples", reason)
    found = ClassMasks()
    each = predictions(grounder, samples, batch)
    for prediction in progress(each, f"measuring {what}", total=len(samples), hidden=hidden):
        found.update(prediction.sample.names, prediction.masks, prediction.sample.masks)
    return found


def report_measures(
    grounder: Grounder,
    chosen: Mapping[str, Samples],
    config: MeasuringConfig,
    scale: Scale,
    name: str,
) -> dict[str, Any]:
    """JSON-ready: ``"groups"`` has :meth:`ClassMasks.result` of every group of classes.

    Args:
        chosen: sets of samples by name.
        name: what the grounder is called.

    Raises:
        InputError: a group is of a set that there is not, or of an empty one.
    """
    return {
        "scale": scale,
        "grounder": name,
        "threshold": grounder.threshold,
        "groups": {
            group: measure(grounder, samples, batch=config.batch, what=group).result()
            for group, samples in groups_of(chosen, config).items()
        },
        **Made.now().model_dump(),
    }


def shown(
    grounder: Grounder, chosen: Mapping[str, Samples], config: MeasuringConfig
) -> dict[str, list[Prediction]]:
    """A few predictions of every group, of samples that are spread evenly over it."""
    found = {}
    for group, samples in groups_of(chosen, config).items():
        found[group] = [
            Prediction(sample, grounder.scores([sample])[0] > grounder.threshold)
            for sample in evenly(samples, config.figures)
        ]
    return found


def groups_of(chosen: Mapping[str, Samples], config: MeasuringConfig) -> dict[str, Samples]:
    """The samples of every group of classes."""
    for group, name in config.groups.items():
        if name not in chosen:
            reason = f"there is no set {name!r}, there are {', '.join(chosen)}"
            raise InputError("parameters", f"groups.{group}", reason)
    return {group: chosen[name] for group, name in config.groups.items()}
