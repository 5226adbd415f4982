"""Tables 2 to 8 of the third paper, and the filter of the fourth on its samples.

What a row is, and what the paper reports for it, stands in ``paper_tables.json``: a change of the
experiment (:mod:`diffground.papers.grounded.experiment`). Rows share samples and modules wherever
these do not differ, and what is finished is not made again.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Any, Final

from matplotlib.figure import Figure

from diffground.experiments.published import PublishedTable, RowT, changed
from diffground.experiments.result_tables import Figures, ResultRow, ResultTable
from diffground.experiments.runner import Heading, Outcome, RowLog
from diffground.papers.grounded.data_config import GroundingDataConfig
from diffground.papers.grounded.data_report import passing
from diffground.papers.grounded.experiment import TRAIN, Bench, Cell, run_cell, take
from diffground.papers.grounded.filter_figure import filter_figure
from diffground.papers.grounded.learning_config import LearningConfig
from diffground.papers.grounded.module_config import GroundingModuleConfig
from diffground.papers.grounded.module_sizes import MODULES
from diffground.papers.grounded.tables_config import (
    GroundedExperiment,
    GroundedRow,
    GroundedTablesConfig,
    ModelName,
    plain_experiment,
)

#: A set's name -> what the columns call it.
COLUMNS: Final = {"test_seen": "Seen", "test_mixed": "Seen+Unseen", "test_unseen": "Unseen"}
#: Of Table 6, whose columns tell the models apart.
PREFIXES: Final[dict[ModelName, str]] = {"standard": "Standard ", "fine_tuned": "High-Quality "}


@dataclass(frozen=True)
class GroundedTables:
    """The rows that are asked for, see :class:`~diffground.experiments.runner.Experiment`."""

    data: GroundingDataConfig
    learning: LearningConfig
    asked: GroundedTablesConfig
    bench: Bench

    @property
    def base(self) -> GroundedExperiment:
        """What a row changes."""
        data = changed(self.data, "grounded_tables", attempting(self.asked.attempts))
        return plain_experiment(data, data, self.learning)

    @property
    def heading(self) -> Heading:
        """Which mIoU it is stands over every table."""
        return Heading(
            published=self.asked.published,
            name="grounded",
            metric="mIoU (%), class-wise",
            scale=self.data.scale,
            settings={
                "compat": self.learning.query.compat,
                "grounded_tables": self.asked.model_dump(mode="json"),
                "grounded": self.base.model_dump(mode="json"),
            },
        )

    def tables(self) -> Iterator[tuple[str, PublishedTable[GroundedRow]]]:
        """Those asked for, by name, without rows of models that there are not."""
        for name, table in self.asked.each():
            yield name, with_models(table, self.bench, _models)

    def config(self, row: GroundedRow, seed: int | None = None) -> GroundedExperiment:
        """The settings of a row with a seed of its training."""
        size = {} if row.samples is None else {"samples": self.asked.samples[row.samples]}
        train: dict[str, Any] = {} if seed is None else {"seed": seed}
        if row.epochs is not None:
            train |= {"epochs": self.asked.epochs[row.epochs], "steps": None}
        if row.epochs is not None and row.samples is None:
            # As many samples as pass; as many steps as for 10k.
            seen = self.asked.samples["10k"] * self.asked.epochs[row.epochs]
            steps = math.ceil(seen / self.learning.train.batch_size)
            train |= {"epochs": None, "steps": steps}
        learning: dict[str, Any] = {"train": train}
        if row.module is not None:
            model = row.change.get("model", self.base.model)
            guided = self.data.generation.guidance > 1
            named = MODULES[self.asked.modules[row.module]]
            sizes = fitted(named, self.bench.levels(model), guided=guided)
            learning["module"] = sizes.model_dump()
        found = changed(self.base, "grounded_tables", size, {"learning": learning}, row.change)
        there = tuple(model for model in found.tested if model in self.bench.models)
        return found.model_copy(update={"tested": there})

    def run(self, row: GroundedRow, config: GroundedExperiment, log: RowLog) -> Outcome:
        """Trains and measures what is missing; logged is what the training logs."""
        cell = run_cell(self.bench, config, log.metrics)
        report(log, cell)
        return Outcome(figures(cell, config), cell.seconds, cell.made)

    def passing(self) -> dict[str, int]:
        """How many attempts of the training set have every class at a score."""
        base = self.base
        train = take(self.bench, TRAIN, base.model, base.data)
        return passing(train.samples.source.records)

    def with_passing(self, tables: Sequence[ResultTable]) -> tuple[list[ResultTable], Figure]:
        """The tables, that of the filter with how many attempts pass at which score; drawn too."""
        title, found = self.asked.published.tables["filter"].table, list(tables)
        attempts, counts = self.base.data.sets[TRAIN].attempts, self.passing()
        rows: tuple[ResultRow, ...] = ()
        for place, table in enumerate(found):
            if table.table == title:
                told = ", ".join(f"{count} at {score}" for score, count in counts.items())
                note = f"Of {attempts} attempts so many have every class at a score: {told}."
                config = {**table.config, "notes": [*table.config["notes"], note]}
                found[place] = table.model_copy(update={"config": config})
                rows = table.rows
        return found, filter_figure(counts, attempts, rows, self.data.scale)


def attempting(attempts: Mapping[str, int]) -> dict[str, Any]:
    """The change of a data configuration that gives sets so many attempts."""
    return {"sets": {name: {"attempts": count} for name, count in attempts.items()}}


def _models(row: GroundedRow) -> tuple[ModelName, ...]:
    return (row.change["model"],) if "model" in row.change else ()


def with_models(
    table: PublishedTable[RowT], bench: Bench, models: Callable[[RowT], tuple[ModelName, ...]]
) -> PublishedTable[RowT]:
    """A table without the rows of models that there are not, which its note then names."""
    missing = [model for row in table.rows for model in models(row) if model not in bench.models]
    if not missing:
        return table
    rows = [row for row in table.rows if not {*models(row)} & {*missing}]
    there = {row.name for row in rows}
    claims = tuple(claim for claim in table.claims if there.issuperset(claim[:2]))
    named = ", ".join(dict.fromkeys(missing))
    note = f"{table.note} Not filled, as no folder is given for the model: {named}."
    return table.of(rows, claims=claims, note=note)


def fitted(sizes: GroundingModuleConfig, levels: int, *, guided: bool) -> GroundingModuleConfig:
    """A module's sizes on a UNet with so many levels, and on samples with or without guidance.

    The papers' modules are each for one UNet. On one of fewer levels the coarsest width is left
    out, on one of more it is repeated; without guidance there is no unconditional half to read.
    """
    widths = sizes.widths[-levels:]
    widths = (*widths[:1] * (levels - len(widths)), *widths)
    return sizes.model_copy(update={"widths": widths, "guided": sizes.guided and guided})


def figures(cell: Cell, config: GroundedExperiment) -> Figures:
    """A cell's columns."""
    found: Figures = {"samples": float(len(cell.train.samples)), "passing": cell.train.passing}
    if cell.quality is not None:
        found["CLIP-IQA+ Score"] = cell.quality
    for model in config.tested or (config.model,):
        prefix = PREFIXES[model] if config.tested else ""
        scores = cell.scores.get(model, {})
        for name, column in COLUMNS.items():
            found |= _pair(f"{prefix}{column}", scores.get(name))
        if config.training:
            found |= _pair("Training Seen", scores.get(TRAIN))
            found |= _pair("Test Unseen", scores.get("test_unseen"))
    return found


def _pair(column: str, result: Mapping[str, Any] | None) -> Figures:
    """Class-wise, and per image; None where nothing was measured."""
    values = result or {"class": None, "image": None}
    return {column: values["class"], f"{column}, per image": values["image"]}


def report(log: RowLog, cell: Cell) -> None:
    """What the run log keeps of a cell: its scores, and how many samples they are of."""
    for model, sets in cell.scores.items():
        for name, result in sets.items():
            log.report(f"{model}/{name}", result)
