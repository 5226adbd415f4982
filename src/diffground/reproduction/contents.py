"""What the papers consist of: every table and figure, and what fills it here.

A file a paper lies in ``contents/``, in the order of the paper. An item is one of three:

- it has a ``command``: a pipeline measures or draws it, and leaves what ``tables``, ``kept`` and
  ``pictures`` name;
- it has ``code``: there is nothing to measure, a drawing of a method say, and the code is the same;
- it has a ``reason``: it is not reproduced.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any, Final, Literal, Self

from pydantic import Field, model_validator

from diffground.config import Config
from diffground.experiments.published import PublishedPaper, PublishedRow
from diffground.io.files import load_config
from diffground.papers.grounded.tables_config import GroundedTablesConfig, IosdTablesConfig
from diffground.papers.personalized.tables_config import PersonalizedTablesConfig
from diffground.papers.png.tables_config import PngTablesConfig
from diffground.papers.text2mask.tables_config import Text2MaskTablesConfig

TablesName = Literal["png", "text2mask", "personalized", "grounded", "iosd"]

#: What the runs of ``<name>_tables`` reproduce.
PUBLISHED: Final[dict[TablesName, PublishedPaper[Any]]] = {
    "png": PngTablesConfig.published,
    "text2mask": Text2MaskTablesConfig.published,
    "personalized": PersonalizedTablesConfig.published,
    "grounded": GroundedTablesConfig.published,
    "iosd": IosdTablesConfig.published,
}

#: The parts of the page, in its order.
PARTS: Final = ("png", "text2mask", "grounded", "iosd", "foundation")


class MeasuredTable(Config):
    """A table that a run of the tables leaves, or some of its rows."""

    of: TablesName
    name: str  # in that paper's paper_tables.json
    rows: tuple[str, ...] = ()  # none: all

    @property
    def entry(self) -> str:
        """The catalog entry that has it."""
        return f"{self.of}_tables"

    @model_validator(mode="after")
    def _is_published(self) -> Self:
        table = PUBLISHED[self.of].tables.get(self.name)
        if table is None:
            raise self.refusal("name", f"there are {', '.join(PUBLISHED[self.of].tables)}")
        if unknown := {*self.rows} - {row.name for row in table.rows}:
            raise self.refusal("rows", f"the table has no {sorted(unknown)}")
        return self


class KeptRow(Config):
    """A row of figures out of a pipeline's JSON."""

    name: str
    values: dict[str, str]  # column -> where its value stands: "ar.overall"


class Kept(Config):
    """Figures that a pipeline leaves as JSON, as a table."""

    entry: str  # of the catalog
    metric: str  # with its unit
    where: dict[str, Any] = Field(default_factory=dict)  # what the JSON must say it is of
    rows: tuple[KeptRow, ...]


class Item(Config):
    """A table or figure of a paper; without a label it is ours."""

    label: str = Field(default="", pattern=r"^$|^(Table|Figure) ([A-Z]\.)?\d+$")
    title: str
    command: str = Field(default="", pattern=r"^$|^kedro run --pipelines \w+$")
    tables: tuple[MeasuredTable, ...] = ()
    kept: tuple[Kept, ...] = ()
    pictures: tuple[str, ...] = ()  # entries of the catalog
    printed: tuple[PublishedRow, ...] = ()  # of the paper, what no paper_tables.json has
    code: tuple[str, ...] = ()  # module:name
    reason: str = ""
    note: str = ""

    @model_validator(mode="after")
    def _is_one_of_three(self) -> Self:
        if [bool(self.command), bool(self.code), bool(self.reason)].count(True) != 1:
            raise ValueError("an item has either a command, or code, or a reason")
        if bool(self.command) != bool(self.entries):
            raise self.refusal("command", "goes with tables, kept figures or pictures")
        return self

    @property
    def entries(self) -> tuple[str, ...]:
        """The catalog entries that fill it, each once."""
        several = [*(t.entry for t in self.tables), *(k.entry for k in self.kept), *self.pictures]
        return tuple(dict.fromkeys(several))


class Contents(Config):
    """All tables and figures of a paper."""

    name: str
    source: str
    items: tuple[Item, ...]

    @classmethod
    def of(cls, part: str) -> Self:
        """Those of one of :data:`PARTS`."""
        return load_config(cls, Path(__file__).parent / "contents" / f"{part}.json")

    @property
    def entries(self) -> tuple[str, ...]:
        """The catalog entries that fill them, each once, in order."""
        return tuple(dict.fromkeys(entry for item in self.items for entry in item.entries))
