"""What pages about papers are given from elsewhere: their part of the index, and tables of figures.

In a written page stand, each on a line of its own::

    <!-- index: From Text to Mask -->      the section of papers.md whose heading begins so
    <!-- tables: text2mask -->             the paper's tables, and what this checkout measured

Figures are never written by hand: the paper's come from :func:`published_files` beside its code,
measured ones from ``data/08_reporting/<paper>_tables.json`` where a run has left it.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from pathlib import Path

from pydantic import TypeAdapter

from diffground.experiments.published import PublishedPaper, PublishedRow
from diffground.experiments.result_tables import Figures, ResultRow, ResultTable
from diffground.reporting.scale import SCALE_WORDS

INDEX = "papers.md"
MARK = re.compile(r"^<!-- (index|tables): (.+?) -->$", re.MULTILINE)


class _Row(PublishedRow):
    """A row of any paper: what a subclass adds to it is not shown."""

    model_config = {"extra": "ignore"}


def filled(text: str, project: Path) -> str:
    """A page with what its marks stand for.

    Raises:
        KeyError: a mark names a section or a paper that there is not.
    """
    index = (project / "catalog_docs" / INDEX).read_text("utf-8")
    made: dict[str, Callable[[str], str]] = {
        "index": lambda name: section(index, name),
        "tables": lambda name: tables(project, name),
    }
    return MARK.sub(lambda match: made[match[1]](match[2]), text)


def section(text: str, heading: str) -> str:
    """What stands below the first heading that begins with ``heading``, to the next heading."""
    parts = re.split(r"^#+ +(.+)$", text, flags=re.MULTILINE)
    for title, body in zip(parts[1::2], parts[2::2], strict=True):
        if title.startswith(heading):
            return str(body).strip()
    raise KeyError(f"{INDEX} has no section {heading!r}")


def published_files(project: Path) -> dict[str, Path]:
    """Paper -> the tables that it reports.

    They are called ``paper_tables.json`` in the folder of the paper's code, or
    ``<paper>_paper_tables.json`` where it shares the code of another.
    """
    found = sorted((project / "src/diffground/papers").glob("*/*paper_tables.json"))
    return {path.stem.removesuffix("paper_tables")[:-1] or path.parent.name: path for path in found}


def tables(project: Path, paper: str) -> str:
    """Every table of a paper: as published, or beside what was measured in this checkout."""
    published = PublishedPaper[_Row].read(published_files(project)[paper])
    measured = {table.table: table for table in _measured(project, paper)}
    parts = [f"The paper's figures: {published.source}.", ""]
    parts += [f"- {note}" for note in published.notes]
    for table in published.tables.values():
        found = measured.get(table.table)
        rows = [ResultRow(name=row.name, paper=row.paper) for row in table.rows if row.paper]
        parts += ["", f"### {table.table}", "", table.note, ""]
        if found is not None:
            parts += [f"Measured in this checkout, {SCALE_WORDS[found.scale]}: {found.metric}.", ""]
            parts += grid(found.rows, found.columns)
            parts += ["", *_orderings(found)]
        elif rows:
            parts += grid(rows, table.columns)
        else:
            parts += ["The paper prints no values of it."]
    return "\n".join(parts)


def grid(rows: Sequence[ResultRow], columns: Sequence[str]) -> list[str]:
    """A Markdown table: for every column what was measured, if it was, and the paper's figure."""
    shown = [name for name in columns if any(name in row.paper or name in row.mean for row in rows)]
    lines = ["| | " + " | ".join(shown) + " |", "|---|" + "---|" * len(shown)]
    for row in rows:
        cells = [_cell(row, column) for column in shown]
        lines.append(f"| {row.name} | " + " | ".join(cells) + " |")
    return lines


def _cell(row: ResultRow, column: str) -> str:
    paper = _figure(row.paper, column)
    if column not in row.mean:
        return paper or "-"
    deviation = f" ± {row.sd[column]:.1f}" if row.sd.get(column) is not None else ""
    beside = f" (paper {paper})" if paper else ""
    return f"{_figure(row.mean, column) or '-'}{deviation}{beside}"


def _figure(figures: Figures, column: str) -> str:
    value = figures.get(column)
    return "" if value is None else f"{value:.3g}" if abs(value) < 2 else f"{value:.1f}"


def _orderings(table: ResultTable) -> list[str]:
    words = {True: "holds", False: "does not hold", None: "was not measured"}
    return [f"- {entry.claim}: {words[entry.holds]}" for entry in table.orderings]


def _measured(project: Path, paper: str) -> list[ResultTable]:
    """The tables of the last run of ``<paper>_tables``; none if there was none."""
    file = project / f"data/08_reporting/{paper}_tables.json"
    if not file.is_file():
        return []
    return TypeAdapter(list[ResultTable]).validate_json(file.read_text("utf-8"))
