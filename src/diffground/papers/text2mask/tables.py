"""Tables 1 to 6 and B.8 of From Text to Mask (002), and the numbers of Figure B.8.

What a row is, and what the paper reports for it, stands in ``paper_tables.json``: a change of the
experiment (:mod:`diffground.papers.text2mask.experiment`), and the split that it is measured on.
Rows share maps and masks wherever these do not differ, and what is finished is not made again.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import AbstractContextManager, nullcontext
from typing import Any

from diffground.experiments.result_tables import (
    Figures,
    Ordering,
    ResultRow,
    ResultTable,
    measured_row,
    ordering,
)
from diffground.papers.text2mask.config import Text2MaskConfig
from diffground.papers.text2mask.segmenter_rows import segmenter_row
from diffground.papers.text2mask.table_rows import Bench, RowLog, place_of, row_config
from diffground.papers.text2mask.tables_config import TableName, paper_figures, published
from diffground.provenance import Made, commit

DCRF = "mIoU"


def run_tables(bench: Bench) -> list[ResultTable]:
    """Makes and measures what is missing, and returns the tables."""
    found = []
    for name in bench.tables.tables:
        if name == "sweeps":
            found += _sweeps(bench)
        elif name == "seeds":
            found.append(_seeds(bench))
        else:
            found.append(_table(bench, name))
    return found


def _table(bench: Bench, name: TableName) -> ResultTable:
    entry = published(name)
    rows: list[ResultRow] = []
    seconds: dict[str, float] = {}
    recipe = row_config(bench.base, {"attention": {"noises": 1}})
    for row in entry["rows"]:
        place = row.get("split", entry.get("split"))
        if bench.tables.coco is None and (place.startswith("coco") or row.get("start") == "coco"):
            continue
        if bench.tables.rows is not None and row["name"] not in bench.tables.rows:
            continue
        config, source = place_of(bench, place, row["change"])
        if row.get("own") and place == "train" and config == recipe:
            continue  # the recipe itself, which has a row
        with _opened(bench, f"{name}: {row['name']}", config) as log:
            if row.get("segmenter"):
                values, spent, made = segmenter_row(bench, config, source, row.get("start"), log)
            else:
                result = bench.masks(bench.split(config, source), log)
                values, spent = _figures(result, entry["columns"]), result["seconds"]
                made = result["made"]
            _report(log, values)
        seconds |= spent
        shown = {column: v for column, v in row["paper"].items() if column in values}
        rows.append(measured_row(row["name"], [values], shown, made))
    return _result(bench, entry, rows, _claims(rows, entry["claims"]), seconds)


def _figures(result: Mapping[str, Any], columns: Sequence[str]) -> Figures:
    """The columns of a row: of classes, those that the data has."""
    before, after = result["initial"], result["dcrf"]
    named = {
        "initial": before["miou"],
        "dCRF": after["miou"],
        DCRF: after["miou"],
        "images/s": result["images/s"],
    }
    return {
        column: named[column] if column in named else after["iou"][column]
        for column in columns
        if column in named or column in after["iou"]
    }


def _seeds(bench: Bench) -> ResultTable:
    """Table B.8: a row for every seed, and their mean."""
    entry = published("seeds")
    rows, runs, made = [], [], list[Made]()
    seconds: dict[str, float] = {}
    for seed in bench.tables.seeds:
        config = row_config(bench.base, {"attention": {"noises": 1}}, seed=seed)
        with _opened(bench, f"seeds: {seed}", config) as row:
            result = bench.masks(bench.split(config, bench.tables.train), row)
            values = _figures(result, entry["columns"])
            _report(row, values)
        seconds |= result["seconds"]
        runs.append(values)
        known = entry["paper"].get(str(seed))
        made += result["made"]
        row_paper: Figures = {DCRF: known} if known else {}
        rows.append(measured_row(f"seed {seed}", [values], row_paper, result["made"]))
    whole = {str(seed) for seed in bench.tables.seeds} == set(entry["paper"])
    rows.append(measured_row("mean", runs, entry["average"] if whole else {}, made))
    return _result(bench, entry, rows, (), seconds)


def _sweeps(bench: Bench) -> list[ResultTable]:
    """Figure B.8: a table for every curve."""
    entry = published("sweeps")
    curves: dict[str, list[ResultRow]] = {}
    seconds: dict[str, dict[str, float]] = {}
    for curve, name, change in bench.tables.sweeps.points():
        config = row_config(bench.base, {"attention": {"noises": 1, **change}})
        with _opened(bench, f"sweeps: {name}", config) as row:
            result = bench.masks(bench.split(config, bench.tables.train), row)
            values = _figures(result, ("initial", "dCRF"))
            _report(row, values)
        curves.setdefault(curve, []).append(measured_row(name, [values], made=result["made"]))
        seconds.setdefault(curve, {}).update(result["seconds"])
    return [
        _result(
            bench,
            entry | {"table": f"{entry['table']}: {curve}"},
            rows,
            _claims(rows, [["10 noises", "1 noise", "dCRF"]]),
            seconds[curve],
        )
        for curve, rows in curves.items()
    ]


def _claims(rows: Sequence[ResultRow], claims: Sequence[Sequence[str]]) -> tuple[Ordering, ...]:
    """The claims about rows and columns that are there."""
    columns = {row.name: {*row.mean} for row in rows}
    return tuple(
        ordering(rows, better, worse, column)
        for better, worse, column in claims
        if {better, worse} <= set(columns) and column in columns[better] & columns[worse]
    )


def _result(
    bench: Bench,
    entry: Mapping[str, Any],
    rows: Sequence[ResultRow],
    orderings: Sequence[Ordering],
    seconds: Mapping[str, float],
) -> ResultTable:
    return ResultTable(
        paper=paper_figures()["paper"],
        table=entry["table"],
        metric="mIoU (%), background included",
        scale=bench.base.scale,
        rows=tuple(rows),
        orderings=tuple(orderings),
        config={
            "compat": bench.base.attention.compat,
            "notes": [entry["note"]],
            "source": paper_figures()["source"],
            "text2mask_tables": bench.tables.model_dump(mode="json"),
            "text2mask": bench.base.model_dump(mode="json"),
        },
        commit=commit(),
        seconds=round(sum(seconds.values()), 1),
    )


def _opened(
    bench: Bench, name: str, config: Text2MaskConfig
) -> AbstractContextManager[RowLog | None]:
    return bench.open_row(name, config) if bench.open_row else nullcontext()


def _report(row: RowLog | None, values: Figures) -> None:
    if row:
        numbers = {f"table/{column}": v for column, v in values.items() if v is not None}
        row.log_metrics({name.replace("/s", " per s"): v for name, v in numbers.items()}, 0)
