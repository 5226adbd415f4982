"""What a paper reports: its tables as data, ``paper_tables.json`` beside the paper's code.

A row says how its experiment differs from the paper's own, and what the paper reports for it. A
paper whose rows need more fields has a subclass of :class:`PublishedRow`. Which tables and rows are
to be run is asked by a :class:`TablesConfig`.
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from pathlib import Path
from typing import Any, ClassVar, Generic, Self, TypeVar

from pydantic import Field, ValidationError, model_validator

from diffground.config import Config, refused
from diffground.experiments.result_tables import Figures
from diffground.io.files import load_config


class PublishedRow(Config):
    """One row: a method or a variant."""

    name: str
    change: dict[str, Any] = Field(default_factory=dict)  # of the settings, section by section
    paper: Figures = Field(default_factory=dict)  # as printed; empty: a row of ours

    def beside(self, config: Any) -> Figures:
        """The paper's figures that may stand beside those measured with the row's settings."""
        return self.paper

    @property
    def part(self) -> str:
        """What sets rows with the same settings apart, if anything does."""
        return ""


RowT = TypeVar("RowT", bound=PublishedRow)
ConfigT = TypeVar("ConfigT", bound=Config)


class PublishedTable(Config, Generic[RowT]):
    """One table, or the numbers of one figure."""

    table: str  # what the paper calls it
    note: str  # where our rows and the paper's may not be compared
    columns: tuple[str, ...]  # that are shown, as far as a row's experiment gives them
    rows: tuple[RowT, ...] = ()  # none: the configuration says which
    claims: tuple[tuple[str, str, str], ...] = ()  # (better row, worse row, column)
    average: Figures | None = None  # the paper's, of all rows; {}: measured, but not the paper's

    @model_validator(mode="after")
    def _names_are_rows(self) -> Self:
        rows, named = {row.name for row in self.rows}, set[str]()
        if len(rows) < len(self.rows):
            raise ValueError("a row's name stands twice")
        for better, worse, column in self.claims:
            named |= {better, worse}
            if column not in self.columns:
                raise ValueError(f"a claim is about {column!r}; there are {self.columns}")
        if self.rows and named - rows:
            raise ValueError(f"claims are about {sorted(named - rows)}; there are {sorted(rows)}")
        return self

    def of(self, rows: Iterable[RowT], **changes: Any) -> Self:
        """The table with these rows alone."""
        return self.model_copy(update={"rows": tuple(rows), **changes})


class PublishedPaper(Config, Generic[RowT]):
    """All tables of a paper."""

    paper: str  # its short name
    source: str  # where the figures stand
    notes: tuple[str, ...] = ()  # beside every table
    tables: dict[str, PublishedTable[RowT]]

    @classmethod
    def read(cls, file: Path) -> Self:
        """Raises InputError naming the file and the first field that is wrong."""
        return load_config(cls, file)


class TablesConfig(Config):
    """Which tables are asked for; a paper's own configuration adds what else its rows depend on."""

    published: ClassVar[PublishedPaper[Any]]

    tables: tuple[str, ...] = Field(min_length=1)
    rows: tuple[str, ...] | None  # names of rows to run; None = all

    @model_validator(mode="after")
    def _rows_exist(self) -> Self:
        known = {row.name for name in self.tables for row in self.published.tables[name].rows}
        if unknown := set(self.rows or ()) - known:
            raise ValueError(f"no row {sorted(unknown)} in these tables; there are {sorted(known)}")
        return self

    def each(self) -> Iterator[tuple[str, PublishedTable[Any]]]:
        """The tables that are asked for, by name."""
        for name in self.tables:
            yield name, self.table(name)

    def table(self, name: str) -> PublishedTable[Any]:
        """A table with the rows that are asked for."""
        table = self.published.tables[name]
        return table.of(row for row in table.rows if self.rows is None or row.name in self.rows)


def changed(base: ConfigT, where: str, *changes: Mapping[str, Any]) -> ConfigT:
    """The settings of a row: ``base`` with ``changes`` laid over it, section by section.

    Raises:
        InputError: they do not go together; ``where`` names the parameters that ask for them.
    """
    content = base.model_dump()
    for change in changes:
        content = _laid_over(content, change)
    try:
        return type(base).model_validate(content)
    except ValidationError as error:
        raise refused(where, error) from error


def _laid_over(below: Mapping[str, Any], above: Mapping[str, Any]) -> dict[str, Any]:
    merged = dict(below)
    for name, value in above.items():
        old = merged.get(name)
        nested = isinstance(old, Mapping) and isinstance(value, Mapping)
        merged[name] = _laid_over(old or {}, value) if nested else value
    return merged
