"""For notebooks that vary a table of a paper: runs its pipeline, and shows what came out."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from diffground.adapters.config_loader import DEFAULT_ENV
from diffground.adapters.notebook import run_pipeline
from diffground.experiments.result_tables import (
    ResultTable,
    column_texts,
    made_by,
    render,
    row_names,
)
from diffground.io.paths import slug
from diffground.reporting.bars import Bar, bars
from diffground.reporting.curves import figure_pixels

if TYPE_CHECKING:
    from pandas.io.formats.style import Styler

#: In an executed notebook: a table as data, which no front end shows.
TABLE = "application/vnd.diffground.table+json"
PAPER, MEASURED = "paper", "measured"


def run_tables(
    root: Path,
    pipeline: str,
    changes: dict[str, Any],
    tables: Sequence[str],
    *,
    rows: str = "",
    seeds: str | None = None,
    more: Mapping[str, Any] | None = None,
    read: Sequence[str] = (),
    env: str = DEFAULT_ENV,
) -> tuple[list[ResultTable], list[Any]]:
    """Runs a pipeline of tables, each row a child run of the run log, and loads what it made.

    Args:
        pipeline: ``png_tables`` or the like; its report is the catalog entry of that name.
        changes: nested parameters, see :func:`diffground.adapters.notebook.nested`.
        tables: which of them, as the pipeline's parameters call them.
        rows: names of rows, separated by ``;``, empty: all.
        seeds: "0,1,2", for pipelines whose rows have some.
        more: parameters of the pipeline beside these.
        read: other catalog entries.

    Returns:
        The tables, and the entries of ``read``.
    """
    asked = {
        **changes.get(pipeline, {}),
        **(more or {}),
        "tables": list(tables),
        "rows": None if rows == "" else [name.strip() for name in str(rows).split(";")],
    }
    if seeds is not None:
        asked["seeds"] = [int(seed) for seed in str(seeds).split(",")]
    content, *others = run_pipeline(
        root, pipeline, {**changes, pipeline: asked}, [pipeline, *read], env
    )
    return [ResultTable.model_validate(table) for table in content], others


def show(table: ResultTable, *, plot: bool = True) -> None:
    """A table in a notebook: as a styled DataFrame, its orderings and notes, and as bars.

    Args:
        plot: without it there are no bars, where a notebook has another figure of the table.
    """
    from IPython.display import display

    page = styled(table)
    data = {"text/html": page.to_html(), "text/plain": render(table)}
    display({**data, TABLE: table.model_dump(mode="json")}, raw=True)
    print(render(table, grid=False))  # noqa: T201
    if plot and any(row.mean for row in table.rows):
        display(Image.fromarray(bar_chart(table)))


def styled(table: ResultTable) -> Styler:
    """A table as a DataFrame with the paper's figures in grey beside the measured ones."""
    import pandas

    columns: dict[tuple[str, str], list[str]] = {}
    for column in table.columns:
        texts = column_texts(table, column)
        columns |= zip(((column, PAPER), (column, MEASURED)), texts, strict=True)
    columns["", "commit"] = made_by(table)
    frame = pandas.DataFrame(columns, index=row_names(table))
    frame.columns = pandas.MultiIndex.from_tuples(columns)
    grey = [column for column in columns if column[1] != MEASURED]
    look = frame.style.set_caption(f"{table.paper}, {table.table}: {table.metric}")
    look = look.set_properties(**{"text-align": "right", "white-space": "nowrap"})
    look = look.set_properties(subset=grey, color="#888")
    return look.set_uuid(slug(table.table))


def bar_chart(table: ResultTable) -> Any:
    """The measured columns of a table as bars, uint8 RGB (H, W, 3)."""
    columns = {
        column: [
            Bar(row.name, row.mean.get(column), row.sd.get(column), row.paper.get(column))
            for row in table.rows
        ]
        for column in table.columns
        if any(row.mean.get(column) is not None for row in table.rows)
    }
    return figure_pixels(bars(columns, table.scale, title=f"{table.table}: {table.metric}"), dpi=90)
