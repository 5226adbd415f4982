"""What the ablations of Li et al. are made of: ``params:png_tables``.

What a row is, and what the paper reports for it, stands in ``paper_tables.json``.
"""

from __future__ import annotations

import json
from importlib.resources import files
from typing import Any, Literal

from pydantic import Field, PositiveInt, model_validator

from diffground.config import Config

TableName = Literal["components", "insertion", "mlma"]


class PngTablesConfig(Config):
    """The ablations: ``params:png_tables``. All else is ``params:png``."""

    tables: tuple[TableName, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)  # the paper names none
    max_steps: PositiveInt | None  # of each training; None = png.train.max_steps
    rows: tuple[str, ...] | None  # names of rows to run; None = all
    figures: int = Field(ge=0)  # narratives in Figures 5 and 6

    @model_validator(mode="after")
    def _rows_exist(self) -> PngTablesConfig:
        known = {row["name"] for table in self.tables for row in published(table)["rows"]}
        unknown = set(self.rows or ()) - known
        if unknown:
            raise ValueError(f"no row {sorted(unknown)} in these tables; there are {sorted(known)}")
        return self


def published(name: TableName) -> dict[str, Any]:
    """A table of the paper: its title, note, rows (name, model, paper) and claims."""
    table: dict[str, Any] = paper_figures()["tables"][name]
    return table


def paper_figures() -> dict[str, Any]:
    """The paper's figures."""
    text = files("diffground.papers.png").joinpath("paper_tables.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content
