"""Figures 4 and B.8 of From Text to Mask (002)."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray

from diffground.errors import InputError
from diffground.masks.labels import read_labels
from diffground.masks.store import Layer, mask_path
from diffground.masks.uncertainty import WHITE, comparison_row, uncertain
from diffground.metrics.iou import UNSURE
from diffground.reporting.tables import ResultRow, ResultTable
from diffground.text2mask.samples import load_image, load_mask
from diffground.text2mask.tables_config import published
from diffground.text2mask.variant import Split

_GAP = 4  # pixels between pictures
_CURVES = {
    "timestep": "time step",
    "cross_layers": "cross layers",
    "self_layer": "self layer",
    "background": "background threshold",
    "noises": "noises",
}


def mask_rows(split: Split, number: int) -> NDArray[np.uint8]:
    """Figure 4: image, labels before and after the CRF, uncertain pixels, truth; a row per image.

    The images with the most classes, as many as ``number``. Uncertain pixels are white, in both
    readings of the paper (:mod:`diffground.masks.uncertainty`): where two attention scores are
    close, and what the pseudo mask leaves open. So are the 255s of the truth. uint8 RGB
    ``(H, W, 3)``.
    """
    kept = split.config.masks.layers()
    in_order: tuple[Layer, ...] = ("initial", "label", "mask")
    layers: list[Layer] = [layer for layer in in_order if layer in kept]
    rows: list[NDArray[np.uint8]] = []
    for sample in sorted(split.samples, key=lambda sample: -len(sample.classes)):
        if len(rows) == number:
            break
        try:
            image = load_image(sample)
            files = [mask_path(split.masks, sample.id, layer) for layer in layers]
            masks = [read_labels(file, size=image.shape[:2]) for file in files]
            if "label" in layers:
                unsure = uncertain(split.mask_work(sample).scores, "paper")
                masks.insert(-1, np.where(unsure, np.uint8(UNSURE), masks[layers.index("label")]))
            if sample.mask_path is not None:
                masks.append(load_mask(sample, image.shape[:2]))
        except InputError:
            continue  # its problem is in the report of whoever made or measured the masks
        rows.append(comparison_row(image, masks, _GAP))
    if not rows:
        return np.full((32, 320, 3), WHITE, np.uint8)
    width = max(row.shape[1] for row in rows)
    padded = [
        np.pad(row, ((0, _GAP), (0, width - row.shape[1]), (0, 0)), constant_values=WHITE)
        for row in rows
    ]
    return np.concatenate(padded)


def sweep_curves(tables: Sequence[ResultTable]) -> Figure:
    """Figure B.8 from its tables: mIoU before (dashed) and after the CRF over each setting."""
    prefix = f"{published('sweeps')['table']}: "
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
        figure.suptitle(f"{scale} scale, one noise where nothing else is said", fontsize=11)
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
