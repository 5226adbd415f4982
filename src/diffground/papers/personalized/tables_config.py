"""What Tables 7, B.9, B.10 and Figure 5 are made of: ``params:personalized_tables``.

What a row is, and what the paper reports for it, stands in ``paper_tables.json``.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field

from diffground.experiments.published import PublishedPaper, PublishedRow, TablesConfig

TableName = Literal["splits", "combinations", "variant", "settings"]


class PersonalizedRow(PublishedRow):
    """A row of the tables."""

    own: bool = False  # ours, and left out where it is the recipe itself


class PersonalizedTablesConfig(TablesConfig):
    """The tables: ``params:personalized_tables``. All else is ``params:personalized``."""

    published: ClassVar = PublishedPaper[PersonalizedRow].read(
        Path(__file__).with_name("paper_tables.json")
    )

    tables: tuple[TableName, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)  # the paper names none
    figures: int = Field(ge=0)  # rows of Figure 5
