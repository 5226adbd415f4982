"""Result tables: every reproduced table as data, the papers' figures beside the measured ones.

A file ``<name>_tables.json`` is a list of :class:`ResultTable`. What a paper reports comes from a
data file that names its source; what was measured only ever comes from a run. A table is of one
scale: ``mini`` numbers stand beside the paper's to compare *orderings* (which variant is better),
never levels.
"""

from __future__ import annotations

import math
import re
import textwrap
from collections.abc import Mapping, Sequence
from typing import Any

from pydantic import Field

from diffground.config import Config
from diffground.provenance import Made
from diffground.reporting.scale import Scale

Figures = dict[str, float | None]  # column -> value in the metric's unit; None = not given


class ResultRow(Config):
    """One row of a table: a method or a variant."""

    name: str
    paper: Figures = Field(default_factory=dict)  # as printed in the paper
    mean: Figures = Field(default_factory=dict)  # measured, mean over seeds
    sd: Figures = Field(default_factory=dict)  # standard deviation (n - 1) over seeds
    seeds: int = Field(default=0, ge=0)  # runs behind `mean`; 0 = not measured
    commit: str = ""  # of the code that made what was measured, see `diffground.provenance.Made`
    date: str = ""  # when; both were noted then, and stay if a row is found from earlier


class Ordering(Config):
    """A claim that one row is better than another, in the paper and as measured."""

    claim: str
    paper_gap: float | None  # better minus worse, in the metric's unit
    measured_gap: float | None
    deviation: float | None  # of the measured gap over seeds; None where a row has but one
    holds: bool | None  # whether the measured gap has the sign of the claim; None = not measured

    @property
    def within(self) -> bool:
        """Whether the measured gap is no larger than its deviation: it may be chance."""
        gap, deviation = self.measured_gap, self.deviation
        return gap is not None and deviation is not None and abs(gap) <= deviation


class ResultTable(Config):
    """One table (or the numbers of one figure) of a paper, at one scale."""

    paper: str  # which paper, by its short name
    table: str  # which table or figure of it
    metric: str  # with its unit and yardstick, say "Average Recall (%), protocol original"
    scale: Scale
    rows: tuple[ResultRow, ...]
    orderings: tuple[Ordering, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict)  # what the measured numbers depend on
    commit: str = ""  # of the run that put the table together
    seconds: float | None = None  # wall time of all runs behind the table
    hardware: str = ""  # of the run that put the table together, see `diffground.provenance`

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of all rows, in the order in which they first appear."""
        named = (column for row in self.rows for part in (row.paper, row.mean) for column in part)
        return tuple(dict.fromkeys(named))


def measured_row(
    name: str, runs: Sequence[Figures], paper: Figures | None = None, made: Sequence[Made] = ()
) -> ResultRow:
    """The row of one variant from its runs, one per seed, of which ``made`` says who made them.

    A column's mean goes over the runs; it is None if any run lacks it. The standard deviation is
    given from two runs on.
    """
    columns = tuple(dict.fromkeys(column for run in runs for column in run))
    mean: Figures = {}
    sd: Figures = {}
    for column in columns:
        values = [value for run in runs if (value := run.get(column)) is not None]
        if len(values) < len(runs):
            mean[column] = None
            continue
        mean[column] = center = math.fsum(values) / len(values)
        if len(values) > 1:
            squares = math.fsum((value - center) ** 2 for value in values)
            sd[column] = math.sqrt(squares / (len(values) - 1))
    about = Made.joined(made).model_dump()
    return ResultRow(name=name, paper=paper or {}, mean=mean, sd=sd, seeds=len(runs), **about)


def ordering(
    claim: tuple[str, str, str], paper: Mapping[str, Figures], measured: Mapping[str, ResultRow]
) -> Ordering:
    """Whether ``claim``, (better row, worse row, column), holds; a tie does not.

    ``paper`` has rows' figures, ``measured`` the rows, by their names. The gap's deviation is that
    of the difference of two independent rows.
    """
    better, worse, column = claim
    pair = [measured.get(name, ResultRow(name=name)) for name in (better, worse)]
    paper_gap = _gap(*(paper.get(name, {}).get(column) for name in (better, worse)))
    measured_gap = _gap(*(row.mean.get(column) for row in pair))
    spread = [sd for row in pair if (sd := row.sd.get(column)) is not None]
    return Ordering(
        claim=f"{better} > {worse} ({column})",
        paper_gap=paper_gap,
        measured_gap=measured_gap,
        deviation=math.hypot(*spread) if len(spread) == len(pair) else None,
        holds=None if measured_gap is None else measured_gap > 0,
    )


def render(table: ResultTable, *, grid: bool = True) -> str:
    """The table as text: per column the paper's figure beside the measured one.

    The scale is in the heading; measured figures carry their standard deviation if there is one.
    Behind a row stands who made it, and when. The notes of the table's ``config`` come last.
    Without its ``grid`` it is what is to be said of a table that is shown in another way.
    """
    places = places_of(table)
    about = [f"measured at {table.scale} scale"]
    about += [f"{key} {table.config[key]}" for key in _SETTINGS if key in table.config]
    if table.seconds is not None:
        about.append(f"{table.seconds / 60:.1f} min")
    if table.hardware:
        about.append(table.hardware)
    lines = [f"{table.paper}, {table.table}: {table.metric}", ", ".join(about)]
    if table.scale == "mini":
        lines.append("mini scale: compare orderings with the paper, not levels")
    lines += ["", *_grid(table)] if grid else []
    if table.orderings:
        lines += ["", "orderings"]
    for entry in table.orderings:
        gaps = [figure_text(gap, places, "+") for gap in (entry.paper_gap, entry.measured_gap)]
        verdict = {True: "holds", False: "DOES NOT HOLD", None: "not measured"}[entry.holds]
        if entry.deviation is not None and entry.measured_gap is not None:
            gaps[1] += f" ±{entry.deviation:.{places}f}"
        if entry.within:
            verdict += " (within its deviation)"
        lines.append(f"  {entry.claim}: paper {gaps[0]}, measured {gaps[1]}: {verdict}")
    if table.config.get("notes"):
        lines += ["", "notes"]
    for note in table.config.get("notes", ()):
        lines.append(textwrap.fill(note, 100, initial_indent="  - ", subsequent_indent="    "))
    return "\n".join(lines) + "\n"


_SETTINGS = ("compat", "protocol", "plural_rule")  # that stand beside every number


def row_names(table: ResultTable) -> list[str]:
    """The rows' names, each with its number of seeds."""
    return [row.name + _runs(row.seeds) for row in table.rows]


def column_texts(table: ResultTable, column: str) -> tuple[list[str], list[str]]:
    """A column's figures as text, row by row: the paper's, and the measured ones."""
    places = places_of(table)
    return (
        [figure_text(row.paper.get(column), places) for row in table.rows],
        [_measured(row, column, places) for row in table.rows],
    )


def made_by(table: ResultTable) -> list[str]:
    """Who made each row, and when: ten digits of each commit, with its mark, and the day."""
    short = [re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30}\b", r"\1", row.commit) for row in table.rows]
    return [f"{by} {row.date}".strip() for by, row in zip(short, table.rows, strict=True)]


def _grid(table: ResultTable) -> list[str]:
    """Rows' names to the left; each column's name over its two figures; who made a row, and when.

    Two heads, a rule and the rows, of blocks of one width.
    """
    names = row_names(table)
    width = max(map(len, ["row", *names]))
    blocks = [[f"{cell:{width}}" for cell in ("", "row", "-" * width, *names)]]
    for column in table.columns:
        texts = column_texts(table, column)
        paper, measured = ["paper", *texts[0]], ["measured", *texts[1]]
        left, right = max(map(len, [column, *paper])), max(map(len, measured))
        pairs = [f"{a:>{left}}  {b:>{right}}" for a, b in zip(paper, measured, strict=True)]
        blocks.append([column.center(len(pairs[0])), pairs[0], "-" * len(pairs[0]), *pairs[1:]])
    if any(row.commit for row in table.rows):
        made = made_by(table)
        blocks.append(["", "commit", "-" * max(map(len, made)), *made])
    return [
        ("-+-" if number == 2 else " | ").join(cells).rstrip()
        for number, cells in enumerate(zip(*blocks, strict=True))
    ]


def _runs(seeds: int) -> str:
    return {0: "", 1: " (1 seed)"}.get(seeds, f" ({seeds} seeds)")


def places_of(table: ResultTable) -> int:
    """Decimal places of a table: one for percent, three where no figure reaches 2."""
    parts = [part for row in table.rows for part in (row.paper, row.mean)]
    figures = [abs(value) for part in parts for value in part.values() if value is not None]
    return 3 if figures and max(figures) < 2 else 1


def _measured(row: ResultRow, column: str, places: int) -> str:
    text = figure_text(row.mean.get(column), places)
    return f"{text} ±{row.sd[column]:.{places}f}" if column in row.sd else text


def figure_text(value: float | None, places: int, sign: str = "-") -> str:
    """A figure as tables have it."""
    return "-" if value is None else f"{value:{sign}.{places}f}"


def _gap(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second
