"""Result tables as runs leave them, with figures that are made up."""

from __future__ import annotations

from typing import Any

from diffground.experiments.result_tables import ResultTable, measured_row, ordering
from diffground.reproduction.contents import PUBLISHED, TablesName

COMMIT = "ab12" * 10


def table(of: TablesName, name: str, rows: dict[str, list[float]], **changes: Any) -> ResultTable:
    """A table of which these rows were measured, each with these values in the first column."""
    published = PUBLISHED[of].tables[name]
    column, paper = published.columns[0], {row.name: row.paper for row in published.rows}
    found = {
        row: measured_row(row, [{column: value} for value in values], paper.get(row))
        for row, values in rows.items()
    }
    claims = [c for c in published.claims if {*c[:2]} <= found.keys() and c[2] == column]
    content = {
        "paper": PUBLISHED[of].paper,
        "table": published.table,
        "metric": "points (%)",
        "scale": "mini",
        "rows": [row.model_copy(update={"commit": COMMIT}) for row in found.values()],
        "orderings": [ordering(claim, paper, found) for claim in claims],
        "config": {"compat": "paper", "notes": ["Mind <this> & `that`."], "seed": 3},
        "commit": COMMIT,
        "seconds": 90.0,
        "hardware": "cpu: toy",
    }
    return ResultTable(**{**content, **changes})


def kept(*tables: ResultTable) -> list[dict[str, Any]]:
    """As the catalog reads them."""
    return [one.model_dump(mode="json") for one in tables]
