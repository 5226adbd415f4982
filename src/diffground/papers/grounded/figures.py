"""Pictures of a training and of what was found: 003's Figures 4 and 5."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from diffground.metrics.iou import mask_iou
from diffground.papers.grounded.data_report import fitting, thumbnail
from diffground.papers.grounded.measuring import Prediction
from diffground.papers.grounded.samples import Samples
from diffground.reporting.curves import learning_curves
from diffground.reporting.lettering import Word
from diffground.reporting.overlays import paint, palette
from diffground.reporting.scale import SCALE_WORDS, Scale
from diffground.reporting.sheet import SheetRow, resized, sheet

_PANEL = 208  # pixels of a picture's width


def learning_figure(training: Mapping[str, Any], scale: Scale) -> Figure:
    """The loss, and mIoU on validation samples, over the steps of a training (Figure 4)."""
    losses = [(row["step"], row["loss"]) for row in training["history"]]
    measured = {
        name: [(row["step"], row[kind]) for row in training["evaluations"]]
        for kind, name in (("class", "mIoU, class-wise"), ("image", "mIoU, per image"))
    }
    return learning_curves(losses, measured, scale, title=str(training["module"]))


def prediction_sheet(
    chosen: Mapping[str, Samples],
    found: Mapping[str, Mapping[str, Sequence[Prediction]]],
    scale: Scale,
) -> Image.Image:
    """Samples of every group: the picture, the detector's masks, those of each grounder (Figure 5).

    Below are the names in the colours of their masks, each with the IoU of every grounder.

    Args:
        chosen: sets of samples, whose thumbnails are shown.
        found: grounder -> group of classes -> predictions; each grounder's are of the same samples.
    """
    pictures = {
        record.id: (samples, record) for samples in chosen.values() for record in samples.records
    }
    rows: list[SheetRow] = []
    groups = next(iter(found.values()), {})
    for group, first in groups.items():
        for index, prediction in enumerate(first):
            samples, record = pictures[prediction.sample.id]
            picture = thumbnail(samples.source, record)
            each = [by_group[group][index] for by_group in found.values()]
            rows.append(_row(picture, group, each))
    if not rows:
        return Image.new("RGB", (_PANEL, 32), "white")  # none were asked for
    heading = f"{SCALE_WORDS[scale].capitalize()}: masks of synthetic samples."
    footnote = f"Numbers: IoU of {', then of '.join(found)}."
    titles = ("picture", "detector", *found)
    return Image.fromarray(sheet(titles, rows, _PANEL, heading=heading, footnote=footnote))


def _row(picture: NDArray[np.uint8], group: str, found: Sequence[Prediction]) -> SheetRow:
    sample = found[0].sample
    colours = palette(len(sample.names))
    panels: list[Image.Image] = [resized(picture, _PANEL, smooth=True)]
    for masks in (sample.masks, *(each.masks for each in found)):
        small = np.array([fitting(mask, picture.shape) for mask in masks])
        panels.append(paint(picture, small, colours, _PANEL))
    scores = [mask_iou(each.masks, sample.masks) for each in found]
    words = [Word(f"{group}:")]
    for name, colour, *ious in zip(sample.names, colours, *scores, strict=True):
        numbers = ", ".join(f"{iou:.2f}" for iou in ious)
        words.append(Word(f"{name} ({numbers})", colour, bold=True))
    return SheetRow(panels, words)
