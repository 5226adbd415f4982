"""Figures 4 and B.8 of From Text to Mask (002)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffground.data.labelled_images import LabelledImage
from diffground.errors import InputError
from diffground.experiments.result_tables import ResultRow, ResultTable
from diffground.io.labels import colour_map, read_labels
from diffground.masks.mask_files import Layer, mask_path
from diffground.masks.uncertainty import label_picture, uncertain
from diffground.metrics.iou import UNSURE
from diffground.papers.text2mask.keys import Split
from diffground.papers.text2mask.tables_config import Text2MaskTablesConfig
from diffground.reporting.lettering import Word
from diffground.reporting.scale import SCALE_WORDS
from diffground.reporting.sheet import SheetRow, colour_bar, heat, resized, sheet

_PANEL = 208  # width of a picture, pixels
_TITLES: dict[Layer, str] = {
    "initial": "before the CRF",
    "label": "after the CRF",
    "mask": "pseudo mask",
}
_CURVES = {
    "timestep": "time step",
    "cross_layers": "cross layers",
    "self_layer": "self layer",
    "background": "background threshold",
    "noises": "noises",
}


def mask_sheet(split: Split, number: int) -> NDArray[np.uint8]:
    """Figure 4: the images with the most classes, as many as ``number``, and their masks.

    From left to right: image, the best class's attention score, labels before and after the CRF,
    these without uncertain pixels, the pseudo mask as it is saved, truth; below each its classes in
    their colours. Uncertain pixels are white, in both readings of the paper
    (:mod:`diffground.masks.uncertainty`): where two attention scores are close, and what the pseudo
    mask leaves open. So are the 255s of the truth. uint8 RGB ``(H, W, 3)``.
    """
    titles = ["image", "best class's score", *_TITLES.values()]
    titles.insert(-1, "after the CRF, two scores close: white")
    judged = all(sample.mask_path is not None for sample in split.samples)
    if judged:
        titles.append("ground truth")
    rows: list[SheetRow] = []
    for sample in sorted(split.samples, key=lambda sample: -len(sample.classes)):
        if len(rows) == number:
            break
        try:
            image, scores = sample.load_image(), split.mask_work(sample).scores
            files = {layer: mask_path(split.masks, sample.id, layer) for layer in _TITLES}
            masks = {name: read_labels(file, size=image.shape[:2]) for name, file in files.items()}
            shown = list(masks.values())
            unsure = uncertain(scores, "paper")
            shown.insert(-1, np.where(unsure, np.uint8(UNSURE), masks["label"]))
            if judged:
                shown.append(sample.load_mask(image.shape[:2]))
        except InputError:
            continue  # its problem is in the report of whoever made or measured the masks
        pictures = [image, heat(scores[1:].max(axis=0)), *map(label_picture, shown)]
        panels = [resized(picture, _PANEL, smooth=picture is image) for picture in pictures]
        rows.append(SheetRow(panels, _legend(split, sample, image)))
    which = f"pseudo masks of {split.source.dataset}, {split.name}"
    heading = f"Figure 4: {which}. {SCALE_WORDS[split.config.scale].capitalize()}."
    footnote = "White: uncertain, or not labelled in the ground truth. Black: background."
    page = sheet(titles, rows, _PANEL, heading=heading, footnote=footnote)
    bar = colour_bar(page.shape[1], "best class's attention score, before background and CRF")
    return np.concatenate([page, bar])


def _legend(split: Split, sample: LabelledImage, image: NDArray[np.uint8]) -> list[Word]:
    """A row's image, its size, and the colours of its classes."""
    height, width = image.shape[:2]
    about = [Word(word) for word in f"{sample.id}, {width} x {height} pixels:".split()]
    colours = [colour_map()[split.words.index(name)] for name in sample.classes]
    swatches = [
        Word(name, (int(red), int(green), int(blue)), swatch=True)
        for name, (red, green, blue) in zip(sample.classes, colours, strict=True)
    ]
    return about + swatches


def sweep_curves(tables: Sequence[ResultTable]) -> Figure:
    """Figure B.8 from its tables: mIoU before (dashed) and after the CRF over each setting."""
    prefix = f"{Text2MaskTablesConfig.published.tables['sweeps'].table}: "
    found = {t.table.removeprefix(prefix): t for t in tables if t.table.startswith(prefix)}
    figure = Figure(figsize=(4.2 * max(1, len(found)), 4.2), layout="constrained")
    axes = np.atleast_1d(figure.subplots(1, max(1, len(found)), squeeze=False)[0])
    if not found:
        axes[0].set_title("Figure B.8 was not among the tables asked for")
    for axis, (curve, table) in zip(axes, found.items(), strict=False):
        for number, (name, points) in enumerate(_lines(curve, table.rows).items()):
            ticks = [point for point, _ in points]
            for column, style in (("initial", "o--"), ("dCRF", "o-")):
                values = [row.mean.get(column) for _, row in points]
                label = f"{name}{column}"
                colour = f"C{number}"
                axis.plot(ticks, values, style, c=colour, ms=4, linewidth=1.5, label=label)
        axis.set_xlabel(_CURVES[curve])
        axis.tick_params(axis="x", labelrotation=45 if curve == "cross_layers" else 0)
        axis.grid(alpha=0.25)
        axis.legend(fontsize=8)
    axes[0].set_ylabel("mIoU (%)")
    if found:
        scale = next(iter(found.values())).scale
        figure.suptitle(f"{SCALE_WORDS[scale]}, one noise where nothing else is said", fontsize=11)
    return figure


def _lines(curve: str, rows: Sequence[ResultRow]) -> dict[str, list[tuple[str, ResultRow]]]:
    """The points of each line of a curve: one line, or of the background one for every power."""
    lines: dict[str, list[tuple[str, ResultRow]]] = {}
    for row in rows:
        if curve == "background":
            power, _, threshold = row.name.partition(", threshold ")
            lines.setdefault(f"{power}, ", []).append((threshold, row))
        else:
            tick = row.name.removeprefix(f"{_CURVES[curve]} ").partition(" noise")[0]
            lines.setdefault("", []).append((tick, row))
    return lines
