"""The one runner of result tables: rows and seeds, each an experiment that is run once.

All that it knows of a paper is its :class:`Experiment`, and which rows there are
(:class:`~diffground.experiments.published.PublishedTable`).
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any, Protocol

from PIL import Image

from diffground.config import Config
from diffground.experiments.published import PublishedPaper, PublishedTable
from diffground.experiments.result_tables import (
    Figures,
    ResultRow,
    ResultTable,
    measured_row,
    ordering,
    render,
)
from diffground.provenance import Made, commit, hardware
from diffground.reporting.scale import Scale
from diffground.tracking import Tracker, get_tracker, numbers

if TYPE_CHECKING:
    from matplotlib.figure import Figure

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class RowLog:
    """What one row, with one seed, reports to while it runs: a run of its own in the run log."""

    tracker: Tracker = Tracker()

    def metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Figures at a step, a training's losses among them."""
        self.tracker.log_metrics(values, step)

    def report(self, name: str, content: Mapping[str, Any]) -> None:
        """The numbers in the JSON that a pipeline of its own saves as ``name``."""
        self.metrics(numbers(content, name))

    def picture(self, name: str, draw: Callable[[], Image.Image | Figure]) -> None:
        """A picture, which is drawn only if somebody keeps it."""
        if not self.tracker.keeps:
            return
        with TemporaryDirectory() as folder:
            path, picture = Path(folder) / f"{name}.png", draw()
            if isinstance(picture, Image.Image):
                picture.save(path)
            else:
                picture.savefig(path, dpi=120)
            self.tracker.log_artifact(path, "reporting")


@dataclass(frozen=True)
class Outcome:
    """What an experiment came to."""

    figures: Figures  # in the table's unit; more than its columns, if need be
    seconds: dict[str, float]  # by what took them: what experiments share is counted once
    made: list[Made]  # who made what the figures are of


class Experiment(Protocol):
    """What a paper's rows are: all that the runner knows of it."""

    @property
    def heading(self) -> Heading:
        """What stands over every table."""

    def tables(self) -> Iterable[tuple[str, PublishedTable[Any]]]:
        """The tables that are asked for, by name, with their rows."""

    def config(self, row: Any, seed: int | None) -> Config:
        """The settings of a row with a seed; None: the experiment's own."""

    def run(self, row: Any, config: Any, log: RowLog) -> Outcome:
        """Makes and measures what is missing; what is finished is found."""


@dataclass(frozen=True)
class Heading:
    """What stands over every table of a run."""

    published: PublishedPaper[Any]
    name: str  # of the parameters that a row changes
    metric: str  # with its unit and yardstick
    scale: Scale
    settings: Mapping[str, Any]  # that all measured numbers depend on

    def table(
        self, table: PublishedTable[Any], rows: Sequence[ResultRow], seconds: float | None = None
    ) -> ResultTable:
        """Measured rows as a table; of the paper's claims those about figures that are there."""
        paper = {row.name: row.paper for row in table.rows}
        measured = {row.name: row for row in rows}
        return ResultTable(
            paper=self.published.paper,
            table=table.table,
            metric=self.metric,
            scale=self.scale,
            rows=tuple(rows),
            orderings=tuple(
                ordering(claim, paper, measured)
                for claim in table.claims
                if all(row in measured and claim[2] in measured[row].mean for row in claim[:2])
            ),
            config={
                **self.settings,
                "notes": [table.note, *self.published.notes],
                "source": self.published.source,
            },
            commit=commit(),
            seconds=seconds,
            hardware=hardware(),
        )


def run_tables(experiment: Experiment, seeds: Sequence[int | None] = (None,)) -> list[ResultTable]:
    """Runs what is missing of every row and seed, in order, and returns the tables.

    Each is logged as a run under this one, by its table's name; equal ones are one, and run once.
    """
    done: dict[str, Outcome] = {}
    found = []
    for name, table in experiment.tables():
        rows: list[ResultRow] = []
        outcomes: list[Outcome] = []
        for row in table.rows:
            for seed in seeds:
                config = experiment.config(row, seed)
                key = f"{config.model_dump_json()} {row.part}"
                if key not in done:
                    title = f"{name}: {row.name}" + ("" if seed is None else f", seed {seed}")
                    with get_tracker().child(title, {experiment.heading.name: config}) as tracker:
                        reports = RowLog(tracker)
                        done[key] = experiment.run(row, config, reports)
                        shown = _shown(table, done[key])
                        reports.metrics(_named(shown))
                    log.info("%s: %s", title, shown)
                outcomes.append(done[key])
            rows.append(_row(row.name, table, outcomes[-len(seeds) :], row.beside(config)))
        if table.average is not None and outcomes:
            rows.append(_row("mean", table, outcomes, table.average))
        seconds = {part: spent for one in outcomes for part, spent in one.seconds.items()}
        found.append(experiment.heading.table(table, rows, round(sum(seconds.values()), 1)))
    return found


def as_json_and_text(tables: Sequence[ResultTable]) -> tuple[list[dict[str, Any]], str]:
    """The tables as they are kept: JSON-ready, and as text, which is logged too."""
    text = "\n".join(render(table) for table in tables)
    log.info("%s", text)
    return [table.model_dump(mode="json") for table in tables], text


def _row(
    name: str, table: PublishedTable[Any], outcomes: Sequence[Outcome], paper: Figures
) -> ResultRow:
    """The paper's figures stand beside measured ones only."""
    runs = [_shown(table, outcome) for outcome in outcomes]
    beside = {column: value for column, value in paper.items() if column in runs[0]}
    return measured_row(name, runs, beside, [made for one in outcomes for made in one.made])


def _shown(table: PublishedTable[Any], outcome: Outcome) -> Figures:
    return {name: outcome.figures[name] for name in table.columns if name in outcome.figures}


def _named(figures: Figures) -> dict[str, float]:
    """As the run log has a row's figures, whatever the paper."""
    found = {name.replace("/", " per "): v for name, v in figures.items() if v is not None}
    return {f"table/{name}": value for name, value in found.items()}
