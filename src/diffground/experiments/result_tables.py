"""Result tables: every reproduced table as data, the papers' figures beside the measured ones.

A file ``<name>_tables.json`` is a list of :class:`ResultTable`. What a paper reports comes from a
data file that names its source; what was measured only ever comes from a run. A table is of one
scale: ``mini`` numbers stand beside the paper's to compare *orderings* (which variant is better),
never levels.
"""

from __future__ import annotations

import json
import math
import re
import textwrap
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from pydantic import Field, TypeAdapter, ValidationError, field_validator, model_validator

from diffground.config import Config
from diffground.errors import InputError
from diffground.io.files import write_whole
from diffground.provenance import Made
from diffground.reporting.scale import Scale

Figures = dict[str, float | None]  # column -> value in the metric's unit; None = not given

_ABSENT = "-"


class ResultRow(Config):
    """One row of a table: a method or a variant."""

    name: str
    paper: Figures = Field(default_factory=dict)  # as printed in the paper
    mean: Figures = Field(default_factory=dict)  # measured, mean over seeds
    sd: Figures = Field(default_factory=dict)  # standard deviation (n - 1) over seeds
    seeds: int = Field(default=0, ge=0)  # runs behind `mean`; 0 = not measured
    commit: str = ""  # of the code that made what was measured, see `diffground.provenance.Made`
    date: str = ""  # when; both were noted then, and stay if a row is found from earlier

    @field_validator("paper", "mean", "sd")
    @classmethod
    def _finite(cls, figures: Figures) -> Figures:
        bad = [c for c, value in figures.items() if value is not None and not math.isfinite(value)]
        if bad:
            raise ValueError(f"not a finite number: {bad} (None stands for a missing one)")
        return figures

    @model_validator(mode="after")
    def _measured_by_runs(self) -> ResultRow:
        if bool(self.mean) != bool(self.seeds):
            raise ValueError(
                f"{self.name}: {self.seeds} seeds and {len(self.mean)} measured columns"
            )
        if not set(self.sd) <= set(self.mean):
            raise ValueError(
                f"{self.name}: sd without mean: {sorted(set(self.sd) - set(self.mean))}"
            )
        return self


class Ordering(Config):
    """A claim that one row is better than another, in the paper and as measured."""

    claim: str
    paper_gap: float | None  # better minus worse, in the metric's unit
    measured_gap: float | None
    holds: bool | None  # whether the measured gap has the sign of the claim; None = not measured


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

    @model_validator(mode="after")
    def _rows_differ(self) -> ResultTable:
        names = [row.name for row in self.rows]
        if len(set(names)) != len(names):
            raise ValueError(f"{self.table}: a row name stands twice")
        return self

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


def ordering(rows: Sequence[ResultRow], better: str, worse: str, column: str) -> Ordering:
    """Whether ``better`` beats ``worse`` in ``column``; a tie does not hold.

    Raises KeyError for a row that is not there, ValueError for a column that no row has.
    """
    by_name = {row.name: row for row in rows}
    first, second = by_name[better], by_name[worse]
    if not any(column in row.paper or column in row.mean for row in rows):
        raise ValueError(f"no row has a column {column!r}")
    paper_gap = _gap(first.paper.get(column), second.paper.get(column))
    measured_gap = _gap(first.mean.get(column), second.mean.get(column))
    return Ordering(
        claim=f"{better} > {worse} ({column})",
        paper_gap=paper_gap,
        measured_gap=measured_gap,
        holds=None if measured_gap is None else measured_gap > 0,
    )


def write_tables(path: str | Path, tables: Sequence[ResultTable]) -> Path:
    """Writes ``<name>_tables.json``, whole or not at all; makes folders; returns the path."""
    content = [table.model_dump(mode="json") for table in tables]
    text = json.dumps(content, indent=2, allow_nan=False) + "\n"
    return write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_tables(path: str | Path) -> list[ResultTable]:
    """The tables of a file; InputError naming the first field that is wrong."""
    try:
        text = Path(path).read_text(encoding="utf-8")
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(path, "file", str(error)) from error
    try:
        return TypeAdapter(list[ResultTable]).validate_json(text)
    except ValidationError as error:
        first = error.errors()[0]
        field = ".".join(map(str, first["loc"])) or "JSON"
        raise InputError(path, field, first["msg"]) from error


def render(table: ResultTable) -> str:
    """The table as text: per column the paper's figure beside the measured one.

    The scale is in the heading; measured figures carry their standard deviation if there is one.
    Behind a row stands who made it, and when. The notes of the table's ``config`` come last.
    """
    lines = [
        f"{table.paper}, {table.table}: {table.metric}",
        f"measured at {table.scale} scale" + _provenance(table),
    ]
    if table.scale == "mini":
        lines.append("mini scale: compare orderings with the paper, not levels")
    places = _places(table)
    grid: list[list[str]] = [[""], ["row"]]
    for column in table.columns:
        grid[0] += [column, ""]
        grid[1] += ["paper", "measured"]
    for row in table.rows:
        cells = [row.name if row.seeds != 1 else f"{row.name} (1 seed)"]
        if row.seeds > 1:
            cells = [f"{row.name} ({row.seeds} seeds)"]
        for column in table.columns:
            cells += [_figure(row.paper.get(column), places), _measured(row, column, places)]
        grid.append(cells)
    lines += ["", *_with_origin(_align(grid), table.rows)]
    if table.orderings:
        lines += ["", "orderings"]
        lines += [_ordering_line(entry, places) for entry in table.orderings]
    if table.config.get("notes"):
        lines += ["", "notes"]
        lines += [textwrap.fill(note, 100, **_NOTE) for note in table.config["notes"]]
    return "\n".join(lines) + "\n"


def _provenance(table: ResultTable) -> str:
    """Time and the settings that stand beside every number."""
    parts = [f"{key} {table.config[key]}" for key in _SETTINGS if key in table.config]
    if table.seconds is not None:
        parts.append(f"{table.seconds / 60:.1f} min")
    return "".join(f", {part}" for part in parts)


_NOTE: Any = {"initial_indent": "  - ", "subsequent_indent": "    "}
_SETTINGS = ("compat", "protocol", "plural_rule")


def _ordering_line(entry: Ordering, places: int) -> str:
    verdict = {True: "holds", False: "DOES NOT HOLD", None: "not measured"}[entry.holds]
    gaps = f"paper {_signed(entry.paper_gap, places)}, measured "
    gaps += _signed(entry.measured_gap, places)
    return f"  {entry.claim}: {gaps}: {verdict}"


def _align(grid: list[list[str]]) -> list[str]:
    """Columns of one width: names to the left, figures to the right; a rule under the heads."""
    widths = [max(len(row[n]) for row in grid) for n in range(len(grid[0]))]
    for n in range(1, len(widths), 2):  # a column's name stands over its two figures
        widths[n] = max(widths[n], 5)
        widths[n + 1] = max(widths[n + 1], len(grid[0][n]) - widths[n] - 2, 8)
    lines = []
    for number, row in enumerate(grid):
        cells = [row[0].ljust(widths[0])]
        for n in range(1, len(row), 2):
            if number == 0:
                cells.append(row[n].center(widths[n] + 2 + widths[n + 1]))
            else:
                cells.append(row[n].rjust(widths[n]) + "  " + row[n + 1].rjust(widths[n + 1]))
        lines.append(" | ".join(cells).rstrip())
    rule = "-+-".join(
        ["-" * widths[0]]
        + ["-" * (widths[n] + 2 + widths[n + 1]) for n in range(1, len(widths), 2)]
    )
    return [*lines[:2], rule, *lines[2:]]


def _with_origin(lines: list[str], rows: Sequence[ResultRow]) -> list[str]:
    """The aligned lines, two heads, a rule and the rows, with each row's own commit and date."""
    if not any(row.commit for row in rows):
        return lines
    origins = [f"{_short(row.commit)} {row.date}".strip() for row in rows]
    width = max(map(len, lines))
    cells = ["", "commit", "-" * max(map(len, origins)), *origins]
    parts = [" | ", " | ", "-+-", *[" | "] * len(rows)]
    beside = zip(lines, parts, cells, strict=True)
    return [f"{line.ljust(width)}{part}{cell}".rstrip() for line, part, cell in beside]


def _short(commits: str) -> str:
    """Ten digits of each commit, and its mark."""
    return re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30}\b", r"\1", commits)


def _places(table: ResultTable) -> int:
    """Decimal places of a table: one for percent, three where no figure reaches 2."""
    figures = [
        abs(value)
        for row in table.rows
        for part in (row.paper, row.mean)
        for value in part.values()
        if value is not None
    ]
    return 3 if figures and max(figures) < 2 else 1


def _measured(row: ResultRow, column: str, places: int) -> str:
    value, spread = row.mean.get(column), row.sd.get(column)
    text = _figure(value, places)
    return text if spread is None else f"{text} ±{spread:.{places}f}"


def _figure(value: float | None, places: int) -> str:
    return _ABSENT if value is None else f"{value:.{places}f}"


def _signed(value: float | None, places: int) -> str:
    return _ABSENT if value is None else f"{value:+.{places}f}"


def _gap(first: float | None, second: float | None) -> float | None:
    return None if first is None or second is None else first - second
