"""Scores of mask files, read from them one by one: equal however often their making was resumed."""

from __future__ import annotations

from collections.abc import Iterable, Sequence
from pathlib import Path

from diffground.data.labelled_images import LabelledImage
from diffground.errors import InputError, ProblemReport
from diffground.io.labels import read_labels
from diffground.masks.mask_files import Layer, mask_path
from diffground.metrics.miou import Confusion


def measure(
    folder: str | Path,
    samples: Iterable[LabelledImage],
    classes: Sequence[str],
    *,
    layer: Layer = "label",
) -> tuple[Confusion, ProblemReport]:
    """Compares the mask files with the ground truth, one image in memory at a time.

    Args:
        folder: of :func:`~diffground.masks.mask_files.write_masks`.
        samples: with their ground truth.
        classes: name of label 0 (the background), 1, ...
        layer: which masks, "label" or "initial": those in which no pixel is unsure.

    Returns:
        The scores, and the samples that are not among them: without a mask or a ground truth, or
        one that cannot be read, is of another size, or has a label that is none of the classes.
    """
    assert layer in ("label", "initial"), layer
    confusion, report = Confusion(classes), ProblemReport()
    for sample in samples:
        report.total += 1
        try:
            _compare(confusion, mask_path(folder, sample.id, layer), sample, len(classes))
        except InputError as error:
            report.add(sample.id, error)
    return confusion, report


def _compare(confusion: Confusion, path: Path, sample: LabelledImage, classes: int) -> None:
    truth = sample.load_mask(classes=classes)
    prediction = read_labels(path, size=truth.shape, classes=classes)
    try:
        confusion.update(prediction, truth)
    except ValueError as error:  # an unsure prediction
        raise InputError(path, "labels", str(error)) from error
