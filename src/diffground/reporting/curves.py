"""Figures of curves: recall over IoU thresholds, and training over steps.

Made with matplotlib's objects, without its global state, so that figures can be drawn in any
thread and none stays open.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence

import numpy as np
from matplotlib.backends.backend_agg import FigureCanvasAgg
from matplotlib.figure import Figure
from matplotlib.ticker import FuncFormatter
from numpy.typing import NDArray

from diffground.metrics.average_recall import AverageRecall
from diffground.reporting.overlays import palette
from diffground.reporting.scale import SCALE_WORDS, Scale

# The panels of the papers' recall figure: title, and line style of each group in it.
_PANELS = (
    ("(a) overall", {"overall": "-"}),
    ("(b) things and stuff", {"things": "-", "stuff": "--"}),
    ("(c) singulars and plurals", {"singulars": "-", "plurals": "--"}),
)
_NOUNS = ("(d) seen and held-out nouns", {"seen nouns": "-", "held-out nouns": "--"})

Series = Sequence[tuple[float, float]]  # (step, value)


def recall_curves(recalls: Mapping[str, AverageRecall], scale: Scale) -> Figure:
    """Recall over the IoU threshold: overall, by things and stuff, by singulars and plurals, and by
    seen and held-out nouns where any were held out.

    Args:
        recalls: of each model, at least one. A group without a phrase is left out; Average Recall
            stands in the legends, the first one's protocol in the title.
        scale: on what IoU was measured: printed in the figure.
    """
    thresholds = np.linspace(0, 1, 101).tolist()
    curves = {name: recall.curve(thresholds) for name, recall in recalls.items()}
    averages = {name: recall.result() for name, recall in recalls.items()}
    held_out = any(_NOUNS[1].keys() & by_group for by_group in curves.values())
    panels = (*_PANELS, _NOUNS) if held_out else _PANELS
    lines = 2 + 2 * len(curves)  # of the legends, which stand below: the curves fill the panels
    figure = Figure(figsize=(13, 4.0 + 0.2 * lines), layout="constrained")
    axes = figure.subplots(1, len(panels), sharey=True)
    colours = dict(zip(curves, unit_palette(len(curves)), strict=True))
    for axis, (title, groups) in zip(axes, panels, strict=True):
        for group, style in groups.items():
            for name, by_group in curves.items():
                recall = by_group.get(group)
                if recall is None:
                    continue
                label = name if len(groups) == 1 else f"{name}, {group}"
                average = averages[name].get(group)
                if average is not None:
                    label += f": {average:.1f}"
                axis.plot(
                    thresholds, recall, style, color=colours[name], linewidth=1.8, label=label
                )
        axis.set_title(title, fontsize=12)
        axis.set_xlabel("IoU threshold")
        axis.set_xlim(0, 1)
        axis.set_ylim(0, 1.02)
        axis.grid(alpha=0.25)
        if axis.get_legend_handles_labels()[0]:
            axis.legend(
                fontsize=9,
                title="Average Recall (%)",
                title_fontsize=9,
                loc="upper center",
                bbox_to_anchor=(0.5, -0.14),
                frameon=False,
            )
    axes[0].set_ylabel("recall")
    protocol = next(iter(recalls.values())).protocol
    title = f"{SCALE_WORDS[scale]}: share of phrases found, IoU protocol: {protocol}"
    figure.suptitle(title, fontsize=10, color="0.35")
    return figure


def training_curve(losses: Mapping[str, Series], *, title: str = "") -> Figure:
    """Losses over training steps; faint: as logged, strong: smoothed.

    Args:
        losses: name -> (step, value) pairs; on a logarithmic axis if all are positive.
    """
    figure = Figure(figsize=(6.2, 4.0), layout="constrained")
    axis = figure.subplots()
    for (name, series), colour in zip(losses.items(), unit_palette(len(losses)), strict=True):
        steps, values = np.asarray(series, dtype=np.float64).reshape(-1, 2).T
        axis.plot(steps, values, color=colour, alpha=0.25, linewidth=1)
        axis.plot(steps, _smooth(values), color=colour, linewidth=2, label=name)
    logged = [value for series in losses.values() for _, value in series]
    axis.set_ylabel("loss")
    if logged and min(logged) > 0:
        axis.set_ylabel("loss (logarithmic)")
        axis.set_yscale("log")
        for formatted in (axis.yaxis.set_major_formatter, axis.yaxis.set_minor_formatter):
            formatted(FuncFormatter(_log_label))
    axis.set_xlabel("step")
    axis.grid(alpha=0.25, which="both")
    if losses:
        axis.legend(fontsize=9)
    if title:
        figure.suptitle(title, fontsize=12)
    return figure


def learning_curves(
    losses: Series, measured: Mapping[str, Series], scale: Scale, *, title: str
) -> Figure:
    """The training's loss, and what was measured on validation samples on the way.

    Args:
        losses: (step, value) pairs; faint: as logged, strong: smoothed.
        measured: name -> (step, value) pairs, in percent.
        scale: on what it was measured: printed in the figure.
    """
    figure = Figure(figsize=(9.5, 3.8), layout="constrained")
    left, right = figure.subplots(1, 2)
    colours = unit_palette(1 + len(measured))
    steps, values = np.asarray(losses, dtype=np.float64).reshape(-1, 2).T
    left.plot(steps, values, color=colours[0], alpha=0.25, linewidth=1)
    left.plot(steps, _smooth(values), color=colours[0], linewidth=2)
    left.set_ylabel("loss")
    for (name, series), colour in zip(measured.items(), colours[1:], strict=True):
        right.plot(*np.asarray(series, dtype=np.float64).reshape(-1, 2).T, "o-", color=colour,
                   linewidth=2, markersize=4, label=name)  # fmt: skip
    right.set_ylabel("percent, validation samples")
    right.legend(fontsize=9)
    for axis in (left, right):
        axis.set_xlabel("step")
        axis.grid(alpha=0.25)
    figure.suptitle(f"{title}, {SCALE_WORDS[scale]}", fontsize=11)
    return figure


def figure_pixels(figure: Figure, dpi: int = 120) -> NDArray[np.uint8]:
    """The figure as uint8 RGB ``(H, W, 3)``."""
    figure.set_dpi(dpi)
    canvas = FigureCanvasAgg(figure)
    canvas.draw()
    return np.array(canvas.buffer_rgba())[..., :3]


def unit_palette(size: int) -> list[tuple[float, ...]]:
    """The palette of the overlays, as matplotlib wants it."""
    return [tuple(channel / 255 for channel in colour) for colour in palette(size)]


def _log_label(value: float, position: int) -> str:
    """Plain numbers at 1, 2 and 5 of every decade, nothing at the other ticks."""
    digit = f"{value:.0e}"[0]
    return f"{value:g}" if digit in "125" else ""


def _smooth(values: NDArray[np.float64]) -> NDArray[np.float64]:
    """Mean over a window of a twentieth of the series, shorter at both ends: no lag, no bias."""
    half = len(values) // 40
    if half == 0:
        return values
    total = np.concatenate([[0.0], np.cumsum(values)])
    at = np.arange(len(values))
    reach = np.minimum(half, np.minimum(at, len(values) - 1 - at))
    return (total[at + reach + 1] - total[at - reach]) / (2 * reach + 1)
