"""Figures of bars: rows of a result table, measured beside what a paper reports."""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from typing import NamedTuple

import numpy as np
from matplotlib.figure import Figure

from diffground.reporting.curves import unit_palette
from diffground.reporting.scale import SCALE_WORDS, Scale

ACROSS = 3  # panels beside each other


class Bar(NamedTuple):
    """One row in one column; None: there is no such figure."""

    row: str
    measured: float | None
    deviation: float | None
    paper: float | None


def bars(columns: Mapping[str, Sequence[Bar]], scale: Scale, *, title: str = "") -> Figure:
    """A panel per column: its rows from top to bottom, measured in colour, the paper's in grey.

    Args:
        columns: name -> its rows, in the same order in each; at least one column and one row.
        scale: on what it was measured: printed in the legend.
    """
    across = min(ACROSS, len(columns))
    down = math.ceil(len(columns) / across)
    rows = max(map(len, columns.values()))
    size = (1.8 + 3.1 * across, 0.9 + down * (0.7 + 0.36 * rows))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(down, across, squeeze=False, sharey=True)
    for axis, (name, entries) in zip(axes.flat, columns.items(), strict=False):
        places = np.arange(len(entries))
        measured = [_or_nan(entry.measured) for entry in entries]
        spread = [entry.deviation or 0.0 for entry in entries]
        axis.barh(
            places - 0.19, measured, 0.38, xerr=spread, color=unit_palette(1)[0], ecolor="0.2",
            label=f"measured, {SCALE_WORDS[scale]}",
        )  # fmt: skip
        paper = [_or_nan(entry.paper) for entry in entries]
        axis.barh(places + 0.19, paper, 0.38, color="0.8", label="the paper")
        axis.set_yticks(places, [entry.row for entry in entries], fontsize=9)
        axis.set_title(name, fontsize=10)
        axis.grid(alpha=0.25, axis="x")
    axes[0, 0].invert_yaxis()
    for axis in axes.flat[len(columns) :]:
        axis.set_axis_off()
    handles, labels = axes[0, 0].get_legend_handles_labels()
    figure.legend(handles, labels, loc="outside lower center", ncols=2, fontsize=9, frameon=False)
    if title:
        figure.suptitle(title, fontsize=11)
    return figure


def _or_nan(value: float | None) -> float:
    return math.nan if value is None else value
