"""Scores of mask files, read from them one by one: equal however often their making was resumed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Protocol

from diffground.errors import InputError, ProblemReport
from diffground.io.labels import read_labels
from diffground.masks.mask_files import Layer, mask_path
from diffground.metrics.iou import UnsurePrediction
from diffground.metrics.miou import Confusion


class Sample(Protocol):
    """What :func:`measure` must know of an annotated image."""

    @property
    def id(self) -> str:
        """Name of the item."""

    @property
    def mask_path(self) -> Path | None:
        """File of its ground truth; None if it has none."""


def measure(
    folder: str | Path,
    samples: Iterable[Sample],
    classes: Sequence[str],
    *,
    layer: Layer = "label",
    unsure: UnsurePrediction = "error",
) -> tuple[Confusion, ProblemReport]:
    """Compares the mask files with the ground truth, one image in memory at a time.

    Args:
        folder: of :func:`~diffground.masks.mask_files.write_masks`.
        samples: with their ground truth.
        classes: name of label 0 (the background), 1, ...
        layer: which masks: "label", "initial" or "mask".
        unsure: what a 255 in a mask means, see :class:`~diffground.metrics.miou.Confusion`.

    Returns:
        The scores, and the samples that are not among them: without a mask or a ground truth, or
        one that cannot be read, is of another size, or has a label that is none of the classes.
    """
    assert layer != "confidence", "confidences are no labels"
    confusion, report = Confusion(classes, unsure=unsure), ProblemReport()
    for sample in samples:
        report.total += 1
        try:
            _compare(confusion, mask_path(folder, sample.id, layer), sample, len(classes))
        except InputError as error:
            report.add(sample.id, error)
    return confusion, report


def _compare(confusion: Confusion, path: Path, sample: Sample, classes: int) -> None:
    if sample.mask_path is None:
        raise InputError(path, "mask_path", "the sample has no ground truth")
    truth = read_labels(sample.mask_path, classes=classes)
    prediction = read_labels(path, size=truth.shape, classes=classes)
    try:
        confusion.update(prediction, truth)
    except ValueError as error:  # an unsure prediction where none is allowed
        raise InputError(path, "labels", str(error)) from error
