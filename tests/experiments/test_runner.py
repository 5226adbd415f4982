"""The runner of tables, with a toy in the place of a paper."""

from __future__ import annotations

from dataclasses import dataclass, field
from typing import Any

import pytest
from matplotlib.figure import Figure
from PIL import Image
from recording import recorded

from diffground.config import Config
from diffground.experiments.published import PublishedPaper, PublishedRow, PublishedTable, changed
from diffground.experiments.result_tables import ResultTable
from diffground.experiments.runner import Heading, Outcome, RowLog, as_json_and_text, run_tables
from diffground.provenance import Made, hardware

ONE = PublishedTable[PublishedRow](
    table="Table 1",
    note="Of one.",
    columns=("AR", "images/s", "absent"),
    rows=(
        PublishedRow(name="low", paper={"AR": 1.5, "absent": 3.0}),
        PublishedRow(name="high", change={"level": 2.0}, paper={"AR": 2.0}),
    ),
    claims=(("high", "low", "AR"), ("high", "low", "absent"), ("low", "high", "images/s")),
)
TWO = PublishedTable[PublishedRow](
    table="Table 2", note="Of two.", columns=("double",), rows=ONE.rows[1:], average={"double": 9.0}
)
PAPER = PublishedPaper[PublishedRow](
    paper="A toy", source="nowhere", notes=("Of all.",), tables={"one": ONE, "two": TWO}
)


class ToyConfig(Config):
    level: float = 1.0
    seed: int = 7


@dataclass
class Toy:
    """Measures what its settings say, and a folder of maps that seeds of a level share."""

    asked: tuple[tuple[str, PublishedTable[Any]], ...] = (("one", ONE), ("two", TWO))
    ran: list[ToyConfig] = field(default_factory=list)
    drawn: list[str] = field(default_factory=list)

    @property
    def heading(self) -> Heading:
        return Heading(PAPER, "toy", "AR (%)", "mini", {"compat": "paper"})

    def tables(self) -> tuple[tuple[str, PublishedTable[Any]], ...]:
        return self.asked

    def config(self, row: PublishedRow, seed: int | None) -> ToyConfig:
        return changed(ToyConfig(), "toy", row.change, {} if seed is None else {"seed": seed})

    def run(self, row: PublishedRow, config: ToyConfig, log: RowLog) -> Outcome:
        self.ran.append(config)
        if config.level > 2:
            raise RuntimeError("too high")
        log.metrics({"train/loss": 0.5}, 3)
        log.report("toy_metrics", {"ar": {"all": config.level}, "by": "a name"})
        log.picture("page", lambda: self._draw(Image.new("RGB", (3, 2))))
        log.picture("curve", lambda: self._draw(Figure()))
        value = config.level + config.seed / 10
        figures = {"double": 2 * value, "images/s": None, "AR": value}
        seconds = {f"maps-{config.level}": 2.0, f"model-{config.level}-{config.seed}": 0.5}
        made = Made(commit=f"{config.seed}" * 40, date="2026-01-31")
        return Outcome(figures, seconds, [made])

    def _draw(self, picture: Any) -> Any:
        self.drawn.append(type(picture).__name__)
        return picture


def run(toy: Toy, *seeds: int | None) -> list[ResultTable]:
    return run_tables(toy, seeds or (None,))


def test_rows_and_seeds_stand_beside_the_paper(made_by):
    by = made_by("c")
    one, two = run(Toy(), 1, 3)
    low, high = one.rows
    assert (one.paper, one.table, one.metric, one.scale) == ("A toy", "Table 1", "AR (%)", "mini")
    assert low.mean == pytest.approx({"AR": 1.2, "images/s": None})  # in the table's order
    assert list(low.mean) == ["AR", "images/s"] and low.sd == {"AR": pytest.approx(0.02**0.5)}
    assert low.paper == {"AR": 1.5}, "no figure beside what was not measured"
    assert (low.seeds, low.commit, low.date) == (2, f"{'1' * 40}, {'3' * 40}", "2026-01-31")
    assert one.commit == by and one.config == {
        "compat": "paper",
        "notes": ["Of one.", "Of all."],
        "source": "nowhere",
    }
    better, unknown = one.orderings
    assert better.claim == "high > low (AR)" and better.holds
    assert (better.paper_gap, better.measured_gap) == (0.5, pytest.approx(1.0))
    assert unknown.claim == "low > high (images/s)" and unknown.holds is None
    mean = two.rows[-1]
    assert (mean.name, mean.seeds, mean.mean) == ("mean", 2, two.rows[0].mean)
    assert mean.paper == {"double": 9.0} and two.rows[0].paper == {}
    content, text = as_json_and_text([one, two])
    assert one.hardware == hardware() and f" min, {hardware()}" in text
    assert [ResultTable.model_validate(table) for table in content] == [one, two]
    assert text.index("A toy, Table 1") < text.index("A toy, Table 2") and "Of all." in text


def test_what_rows_and_tables_share_is_run_and_counted_once():
    toy = Toy()
    one, two = run(toy, 1, 3)
    assert [(c.level, c.seed) for c in toy.ran] == [(1, 1), (1, 3), (2, 1), (2, 3)]
    assert (one.seconds, two.seconds) == (2 * 2.0 + 4 * 0.5, 2.0 + 2 * 0.5)
    assert toy.drawn == [], "nobody keeps pictures"

    class Part(PublishedRow):
        """A row of which something else is measured."""

        split: str = "train"

        @property
        def part(self) -> str:
            return self.split

    rows = (Part(name="a"), Part(name="b"), Part(name="c", split="val"))
    toy = Toy((("parts", ONE.of(rows, claims=())),))
    (table,) = run(toy)
    assert [row.name for row in table.rows] == ["a", "b", "c"] and len(toy.ran) == 2


def test_every_row_and_seed_is_a_run_of_its_own(monkeypatch):
    toy = Toy()
    with recorded(monkeypatch) as told:
        run(toy, 1, 3)
    names = [f"one: {row}, seed {seed}" for row in ("low", "high") for seed in (1, 3)]
    assert list(told.children) == names and not told.metrics
    row = told.children["one: high, seed 3"]
    assert row.params == {"toy": ToyConfig(level=2.0, seed=3)}
    assert row.metrics == {"train/loss": 0.5, "toy_metrics/ar/all": 2.0, "table/AR": 2.3}
    assert row.files == {"reporting/page.png", "reporting/curve.png"}
    assert toy.drawn == ["Image", "Figure"] * 4
    with recorded(monkeypatch) as told:
        run(Toy())
    assert list(told.children) == ["one: low", "one: high"]
    assert told.children["one: low"].params == {"toy": ToyConfig()}, "the settings' own seed"


def test_a_row_that_fails_ends_the_tables():
    rows = (PublishedRow(name="high", change={"level": 3.0}), ONE.rows[0])
    toy = Toy((("one", ONE.of(rows)),))
    with pytest.raises(RuntimeError, match="too high"):
        run(toy)
    assert len(toy.ran) == 1
