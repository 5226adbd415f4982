"""Tables 1 and 2 of IOSD, the fourth paper.

What a row is, and what the paper reports for it, stands in ``iosd_paper_tables.json``: the switches
of Table 2, and the class splits that it is the mean over. Cells are those of
:mod:`diffground.papers.grounded.experiment`.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Final

import numpy as np

from diffground.experiments.published import PublishedTable, changed
from diffground.experiments.result_tables import Figures
from diffground.experiments.runner import Heading, Outcome, RowLog
from diffground.papers.grounded.data_config import GenerationConfig, GroundingDataConfig
from diffground.papers.grounded.experiment import Bench, Cell, run_cell
from diffground.papers.grounded.learning_config import LearningConfig
from diffground.papers.grounded.module_sizes import MODULES
from diffground.papers.grounded.tables import attempting, fitted, report, with_models
from diffground.papers.grounded.tables_config import (
    Dataset,
    GroundedExperiment,
    IosdRow,
    IosdTablesConfig,
    ModelName,
    Switch,
    plain_experiment,
)

#: A set's name -> what the columns call it.
COLUMNS: Final = {"test_seen": "seen", "test_unseen": "unseen"}
#: Points of mIoU below the best at which a training counts as converged.
_CONVERGED: Final = 1.0


@dataclass(frozen=True)
class IosdTables:
    """The rows that are asked for, see :class:`~diffground.experiments.runner.Experiment`.

    Attributes:
        data: the samples of the paper, with D and F.
        plain: how pictures are made without D.
        learning: of its module.
    """

    data: GroundingDataConfig
    plain: GenerationConfig
    learning: LearningConfig
    asked: IosdTablesConfig
    bench: Bench

    @property
    def base(self) -> GroundedExperiment:
        """Without any switch. Tests are of what passes the filter, in every row."""
        made = {"generation": self.plain.model_dump()}
        data = changed(self.data, "iosd_tables", attempting(self.asked.attempts), made)
        every = data.choice.model_copy(update={"least_score": data.detector.floor})
        data_of_all = data.model_copy(update={"choice": every})
        return plain_experiment(data_of_all, data, self.learning)

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
                "iosd_tables": self.asked.model_dump(mode="json"),
                "grounded": self.base.model_dump(mode="json"),
            },
        )

    def tables(self) -> Iterator[tuple[str, PublishedTable[IosdRow]]]:
        """Those asked for, by name, without rows of a model that there is not."""
        for name, table in self.asked.each():
            yield name, with_models(table, self.bench, lambda row: (_model(row),))

    def config(self, row: IosdRow, seed: int | None = None) -> GroundedExperiment:
        """The settings of a row with a seed of its training.

        On which class splits it is measured is said by :attr:`IosdRow.splits`.
        """
        made = {"generation": self.data.generation.model_dump()}
        score = {"least_score": self.data.choice.least_score}
        prompts = {"prompts": {"templates": self.asked.templates, "asked": "one"}}
        switches: dict[Switch, dict[str, Any]] = {
            "D": {"model": _model(row), "data": made, "test": made},
            "F": {"data": {"choice": score}},
            "P": {"data": prompts, "test": prompts if row.as_trained else {}},
        }
        changes = [switches[one] for one in row.switches if one in switches]
        config = changed(self.base, "iosd_tables", *changes, row.change)
        named = MODULES[self.asked.modules["iosd" if "S" in row.switches else "gd"]]
        guided = config.data.generation.guidance > 1
        sizes = fitted(named, self.bench.levels(config.model), guided=guided)
        train = {"evaluations": self.asked.evaluations} | ({} if seed is None else {"seed": seed})
        learning = {"module": sizes.model_dump(), "train": train}
        return changed(config, "iosd_tables", {"learning": learning})

    def run(self, row: IosdRow, config: GroundedExperiment, log: RowLog) -> Outcome:
        """Trains and measures what is missing, on every split of the row and every dataset."""
        found: Figures = {}
        seconds: dict[str, float] = {}
        made = []
        for dataset in self.asked.datasets:
            cells = [self._cell(config, dataset, split, log) for split in row.splits]
            for cell in cells:
                seconds |= cell.seconds
                made += cell.made
            found |= {f"{dataset} {name}": value for name, value in _means(cells, config).items()}
        first = next(iter(self.asked.datasets))
        found |= {
            name.removeprefix(f"{first} "): value
            for name, value in found.items()
            if name.startswith(f"{first} ")
        }
        if config.method == "module" and row.splits == (1,):
            found |= self._improvement(found, config, log)
        return Outcome(found, seconds, made)

    def _improvement(self, found: Figures, config: GroundedExperiment, log: RowLog) -> Figures:
        """What sets a row apart from the first of Table 2 with the same seed."""
        start, *_ = self.asked.published.tables["switches"].rows
        first = self.config(start, config.learning.train.seed)
        before = _means([self._cell(first, next(iter(self.asked.datasets)), 1, log)], first)
        gaps: Figures = {}
        for name in COLUMNS.values():
            now, then = found[name], before[name]
            gaps[f"imp. {name}"] = None if now is None or then is None else now - then
        return gaps

    def _cell(self, config: GroundedExperiment, dataset: Dataset, split: int, log: RowLog) -> Cell:
        prompts = {"prompts": {"split": self.asked.datasets[dataset][split - 1]}}
        change = {"data": prompts, "test": prompts}
        cell = run_cell(self.bench, changed(config, "iosd_tables", change), log.metrics)
        report(log, cell)
        return cell


def _model(row: IosdRow) -> ModelName:
    return "turbo" if "D" in row.switches else "standard"


def _means(cells: Sequence[Cell], config: GroundedExperiment) -> Figures:
    """The columns of cells of several splits."""
    rows = [_figures(cell, config) for cell in cells]
    return {name: _mean([row[name] for row in rows]) for name in rows[0]}


def _figures(cell: Cell, config: GroundedExperiment) -> Figures:
    scores = cell.scores.get(config.model, {})
    found: Figures = {"samples": float(len(cell.train.samples)), "passing": cell.train.passing}
    for name, column in COLUMNS.items():
        result = scores.get(name, {"class": None, "image": None})
        found |= {column: result["class"], f"{column}, per image": result["image"]}
    found["iter."] = converged(cell.evaluations)
    return found


def converged(evaluations: Sequence[dict[str, float]]) -> float | None:
    """The first step whose validation mIoU is within a point of the best; None without any."""
    if not evaluations:
        return None
    best = max(one["class"] for one in evaluations)
    return next(one["step"] for one in evaluations if one["class"] >= best - _CONVERGED)


def _mean(values: Sequence[float | None]) -> float | None:
    known = [value for value in values if value is not None]
    return float(np.mean(known)) if len(known) == len(values) else None
