"""What was measured, laid beside what the papers print: the report as data.

Tables come from the runs' ``<paper>_tables.json``. A row of the paper that no run measured stands
there with the paper's figures alone; rows of ours only where they were measured.
"""

from __future__ import annotations

import hashlib
import io
import re
from collections.abc import Mapping, Sequence
from typing import Any, Literal

from PIL import Image
from pydantic import Field, TypeAdapter, ValidationError

from diffground.config import Config, refused
from diffground.errors import InputError
from diffground.experiments.published import PublishedRow
from diffground.experiments.result_tables import (
    Ordering,
    ResultRow,
    ResultTable,
    ordering,
)
from diffground.provenance import Made
from diffground.reporting.scale import Scale
from diffground.reporting.small import small
from diffground.reproduction.contents import PUBLISHED, Contents, Item, Kept, MeasuredTable

WIDTH = 1400  # pixels of a picture, at most
State = Literal["measured", "partly measured", "not measured yet", "in the code", "not reproduced"]

Found = Mapping[str, Any]  # catalog entry -> what is there, None where nothing is


class ReportRow(ResultRow):
    """A row, and how its experiment differs from the paper's own."""

    settings: dict[str, Any] = Field(default_factory=dict)


class ReportTable(Config):
    """A table: the paper's figures, measured ones beside them where there are any."""

    title: str
    metric: str = ""
    scale: Scale | None = None  # None: nothing was measured
    rows: tuple[ReportRow, ...]
    orderings: tuple[Ordering, ...] = ()
    notes: tuple[str, ...] = ()
    config: dict[str, Any] = Field(default_factory=dict)
    commit: str = ""
    seconds: float | None = None
    hardware: str = ""

    @property
    def columns(self) -> tuple[str, ...]:
        """All columns of all rows, in the order in which they first appear."""
        named = (column for row in self.rows for part in (row.paper, row.mean) for column in part)
        return tuple(dict.fromkeys(named))


class Picture(Config):
    """A picture as the page shows it: a PNG, of which the JSON has size and hash."""

    entry: str  # of the catalog
    width: int
    height: int
    sha256: str
    png: bytes = Field(exclude=True, repr=False)


class ReportItem(Config):
    """A table or figure of a paper, filled, or named with the reason."""

    label: str
    title: str
    state: State
    command: str
    missing: tuple[str, ...]  # entries of the catalog that the command would fill
    tables: tuple[ReportTable, ...]
    pictures: tuple[Picture, ...]
    code: tuple[str, ...]
    reason: str
    note: str


class ReportPart(Config):
    """A paper, or the mini models."""

    name: str
    source: str
    items: tuple[ReportItem, ...]

    @property
    def orderings(self) -> tuple[Ordering, ...]:
        """Of all tables."""
        tables = [table for item in self.items for table in item.tables]
        return tuple(entry for table in tables for entry in table.orderings)


class Report(Config):
    """Everything on one page."""

    parts: tuple[ReportPart, ...]
    made: Made  # by which commit the report was put together, and when
    hardware: str  # where it was; a table's own stands with the table
    versions: dict[str, str]  # of the packages that numbers depend on


def gather(contents: Contents, found: Found) -> ReportPart:
    """A paper's tables and figures with what lies in ``data/08_reporting``.

    Args:
        found: of every entry that the contents name what was read, None where nothing is.

    Raises:
        InputError: an entry's content is not what its pipeline writes.
    """
    items = tuple(_item(item, found) for item in contents.items)
    return ReportPart(name=contents.name, source=contents.source, items=items)


def _item(item: Item, found: Found) -> ReportItem:
    tables: list[ReportTable] = []
    missing: list[str] = []
    for table in item.tables:
        measured = _measured(table, found)
        tables += measured or [_published(table)]
        missing += [] if measured else [table.entry]
    for kept in item.kept:
        filled = _kept(kept, item.title, found[kept.entry])
        tables += [filled] if filled else []
        missing += [] if filled else [kept.entry]
    pictures = [_picture(name, found[name]) for name in item.pictures if found[name] is not None]
    missing += [name for name in item.pictures if found[name] is None]
    if item.printed:
        tables = [*_with_printed(tables[:1], item), *tables[1:]]
    parts = len(item.tables) + len(item.kept) + len(item.pictures)
    return ReportItem(
        **item.model_dump(include={"label", "title", "command", "code", "reason", "note"}),
        state=_state(item, parts, len(missing)),
        missing=tuple(dict.fromkeys(missing)),
        tables=tuple(tables),
        pictures=tuple(pictures),
    )


def _state(item: Item, parts: int, missing: int) -> State:
    if item.code:
        return "in the code"
    if item.reason:
        return "not reproduced"
    if missing == parts:
        return "not measured yet"
    return "partly measured" if missing else "measured"


def _measured(asked: MeasuredTable, found: Found) -> list[ReportTable]:
    """The tables of the last run that are this one; a curve, or a set of nouns, has its own."""
    title = PUBLISHED[asked.of].tables[asked.name].table
    tables = _tables(asked.entry, found[asked.entry])
    same = [table for table in tables if table.table == title]
    parts = [table for table in tables if table.table.startswith((f"{title}: ", f"{title}, "))]
    whole = [_beside(asked, table) for table in same]
    return [*(table for table in whole if table), *(_alone(asked, table) for table in parts)]


def _tables(entry: str, content: Any) -> list[ResultTable]:
    try:
        return TypeAdapter(list[ResultTable]).validate_python(content or [])
    except ValidationError as error:
        raise refused(entry, error) from error


def _beside(asked: MeasuredTable, table: ResultTable) -> ReportTable | None:
    """A measured table with the paper's rows that were not; None if no row asked for was."""
    published = {row.name: row for row in PUBLISHED[asked.of].tables[asked.name].rows}
    wanted = [row for row in table.rows if row.name in asked.rows or not asked.rows]
    if not wanted:
        return None
    measured = {row.name: row for row in wanted}
    rows = [
        _report_row(measured.pop(name, ResultRow(name=name, paper=row.paper)), row)
        for name, row in published.items()
        if (name in measured or _is_missed(row, wanted)) and (name in asked.rows or not asked.rows)
    ]
    rows += [_report_row(row) for row in measured.values()]
    judged = {entry.claim: entry for entry in table.orderings}
    claimed = {entry.claim: entry for entry in _published(asked).orderings}
    if asked.rows:
        judged = {claim: entry for claim, entry in judged.items() if claim in claimed}
    orderings = tuple({**claimed, **judged}.values())
    return _alone(asked, table).model_copy(update={"rows": tuple(rows), "orderings": orderings})


def _is_missed(row: PublishedRow, measured: Sequence[ResultRow]) -> bool:
    """Whether none of the measured rows is the paper's; "13 groups" are its "groups"."""
    same = re.compile(rf"(\d+ )?{re.escape(row.name)}")
    return bool(row.paper) and not any(same.fullmatch(one.name) for one in measured)


def _alone(asked: MeasuredTable, table: ResultTable) -> ReportTable:
    """A measured table as it is."""
    config = dict(table.config)
    notes = tuple(config.pop("notes", ()))
    published = {row.name: row for row in PUBLISHED[asked.of].tables[asked.name].rows}
    return ReportTable(
        title=table.table,
        metric=table.metric,
        scale=table.scale,
        rows=tuple(_report_row(row, published.get(row.name)) for row in table.rows),
        orderings=table.orderings,
        notes=notes,
        config=config,
        commit=table.commit,
        seconds=table.seconds,
        hardware=table.hardware,
    )


def _published(asked: MeasuredTable) -> ReportTable:
    """The paper's figures alone, and what they claim."""
    paper = PUBLISHED[asked.of]
    table = paper.tables[asked.name]
    rows = [row for row in table.rows if row.name in asked.rows or not asked.rows]
    figures = {row.name: row.paper for row in rows}
    claims = [claim for claim in table.claims if {*claim[:2]} <= figures.keys()]
    printed = [row for row in rows if row.paper]
    mean = [ReportRow(name="mean", paper=table.average)] if table.average else []
    return ReportTable(
        title=table.table,
        rows=(*(_report_row(ResultRow(name=r.name, paper=r.paper), r) for r in printed), *mean),
        orderings=tuple(ordering(claim, figures, {}) for claim in claims),
        notes=(table.note, *paper.notes),
    )


def _report_row(row: ResultRow, published: PublishedRow | None = None) -> ReportRow:
    """A row with what its experiment changes; none is known of a row that the run made up."""
    aside = {name for name in type(row).model_fields} | {"paper_unpretrained"}
    told = published.model_dump(mode="json", exclude_defaults=True) if published else {}
    settings = {name: value for name, value in told.items() if name not in aside}
    return ReportRow(**row.model_dump(), settings=settings)


def _kept(kept: Kept, title: str, content: Any) -> ReportTable | None:
    """Figures of a pipeline's JSON; None if there is none, or if it is of something else."""
    if content is None:
        return None
    if not isinstance(content, Mapping):
        raise InputError(
            kept.entry, "content", "is no object; run the pipeline again that makes it"
        )
    if any(content.get(name) != value for name, value in kept.where.items()):
        return None
    seeds = len(content.get("per_eval_seed", ())) or 1
    rows = []
    for row in kept.rows:
        mean = {column: _at(content, path) for column, path in row.values.items()}
        spread = {column: _at(content, _deviation(path)) for column, path in row.values.items()}
        sd = {column: value for column, value in spread.items() if value is not None}
        about = Made.of(content).model_dump()
        rows.append(ReportRow(name=row.name, mean=mean, sd=sd, seeds=seeds, **about))
    return ReportTable(
        title=title,
        metric=kept.metric,
        scale=content.get("scale"),
        rows=tuple(rows),
        config={name: value for name, value in content.items() if isinstance(value, str | int)},
        commit=content.get("commit", ""),
    )


def _deviation(path: str) -> str:
    """Where the deviation of a value stands: beside it, under the same name."""
    *above, name = path.split(".")
    return ".".join([*above, "deviation", name])


def _at(content: Any, path: str) -> float | None:
    for name in path.split("."):
        content = content.get(name) if isinstance(content, Mapping) else None
    return content if isinstance(content, float | int) else None


def _with_printed(tables: Sequence[ReportTable], item: Item) -> list[ReportTable]:
    """The paper's further rows above the measured ones; columns of a row that is there go to it."""
    [table] = tables or [ReportTable(title=item.title, rows=())]
    there = {row.name: row for row in table.rows}
    above = []
    for row in item.printed:
        if row.name in there:
            old = there[row.name]
            there[row.name] = old.model_copy(update={"paper": {**old.paper, **row.paper}})
        else:
            above.append(ReportRow(name=row.name, paper=row.paper))
    return [table.model_copy(update={"rows": (*above, *there.values())})]


def _picture(entry: str, picture: Image.Image) -> Picture:
    shown = small(picture, WIDTH)
    file = io.BytesIO()
    shown.save(file, format="PNG", optimize=True)
    data = file.getvalue()
    digest = hashlib.sha256(data).hexdigest()
    return Picture(entry=entry, width=shown.width, height=shown.height, sha256=digest, png=data)
