"""What the detector's score filters, and what a module makes of the rest."""

from __future__ import annotations

from collections.abc import Mapping, Sequence

from matplotlib.figure import Figure

from diffground.experiments.result_tables import ResultRow
from diffground.reporting.scale import SCALE_WORDS, Scale

_COLUMNS = ("Seen", "Seen+Unseen", "Unseen")
_PREFIX = "score "


def filter_figure(
    passing: Mapping[str, int], attempts: int, rows: Sequence[ResultRow], scale: Scale
) -> Figure:
    """How many pictures pass at each score, and the mIoU of modules that learned from these.

    Args:
        passing: score, as text -> how many of ``attempts`` have every class at it.
        rows: of the filter's table, by their names ``score <score>``; without any, the first panel
            is drawn alone.
    """
    figure = Figure(figsize=(9 if rows else 4.5, 3.6), layout="constrained")
    panels = figure.subplots(1, 2 if rows else 1, squeeze=False)[0]
    scores = [float(score) for score in passing]
    panels[0].plot(scores, [100 * count / attempts for count in passing.values()], "o-", c="C0")
    for score, count in zip(scores, passing.values(), strict=True):
        panels[0].annotate(
            str(count), (score, 100 * count / attempts), (0, 5), textcoords="offset points",
            ha="center", fontsize=8,
        )  # fmt: skip
    panels[0].set_ylabel("attempts that pass (%)")
    panels[0].set_ylim(0, 105)
    panels[0].set_title(f"of {attempts} pictures", fontsize=10)
    for number, column in enumerate(_COLUMNS if rows else (), start=1):
        points = [
            (float(row.name.removeprefix(_PREFIX)), mean, row.sd.get(column) or 0.0)
            for row in rows
            if (mean := row.mean.get(column)) is not None
        ]
        if points:
            x, y, spread = zip(*points, strict=True)
            style = {"fmt": "o-", "c": f"C{number}", "capsize": 3, "label": column}
            panels[1].errorbar(x, y, yerr=spread, **style)
    if rows:
        panels[1].set_ylabel("mIoU (%), class-wise")
        panels[1].set_title("of the module that learned from these", fontsize=10)
        if panels[1].get_legend_handles_labels()[0]:
            panels[1].legend(fontsize=8)
    for panel in panels:
        panel.set_xlabel("the detector's score of every class, at least")
        panel.set_xlim(0, 1)
        panel.grid(alpha=0.25)
    figure.suptitle(SCALE_WORDS[scale], fontsize=10, color="0.35")
    return figure
