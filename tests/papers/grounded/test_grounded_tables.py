"""Rows of both papers as changes of the experiment, what they share, and what is left out."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_grounded
import tiny_png
import torch
from matplotlib.figure import Figure
from pydantic import ValidationError
from recipes import recipe

from diffground.experiments.result_tables import ResultTable, render
from diffground.experiments.runner import run_tables
from diffground.papers.grounded.chance import Chance
from diffground.papers.grounded.data_config import GroundingDataConfig
from diffground.papers.grounded.experiment import Bench, _Reading, run_cell, take
from diffground.papers.grounded.iosd_tables import IosdTables, converged
from diffground.papers.grounded.learning_config import MeasuringConfig
from diffground.papers.grounded.module_sizes import MODULES
from diffground.papers.grounded.tables import GroundedTables, fitted
from diffground.papers.grounded.tables_config import (
    GroundedTablesConfig,
    IosdTablesConfig,
)

MINI = {kind: f"mini-{kind}" for kind in ("gd", "improved", "iosd")}
SETS: dict[str, Any] = {
    "train": {"classes": "seen", "attempts": 4, "draw": "random"},
    "val": {"classes": "seen", "attempts": 2, "draw": "random"},
    "test_seen": {"classes": "seen", "attempts": 2, "draw": "random"},
    "test_mixed": {"classes": "mixed", "attempts": 2, "draw": "random"},
    "test_unseen": {"classes": "unseen", "attempts": 2, "draw": "random"},
}
SINGLE: dict[str, Any] = {
    name: {**SETS[name], "draw": "each"} for name in SETS if name != "test_mixed"
}
TRAIN: dict[str, Any] = {"epochs": None, "steps": 2, "batch_size": 2, "evaluations": 1}


def measuring() -> MeasuringConfig:
    return MeasuringConfig.model_validate(
        {
            "groups": {"seen": "test_seen"}, "weights": "best", "batch": 2,
            "daam": {"thresholds": [0.3, 0.5], "batch": 2}, "figures": 0,
        }
    )  # fmt: skip


def bench(root: Path, **models: Path) -> Bench:
    known: dict[Any, Path] = {"standard": tiny_png.backbone().folder, **models}
    clip = tiny_grounded.ROOT / "data/06_models/mini-clip"
    places = {name: root / name for name in ("samples", "scores", "features", "modules")}
    return Bench(
        known, tiny_grounded.segmenter(), clip, **places, measured=root / "measured",
        measuring=measuring(),
    )  # fmt: skip


def data() -> GroundingDataConfig:
    return tiny_grounded.config(sets=SETS)


def grounded(root: Path, *tables: str, models: dict[str, Path] | None = None, **options: Any):
    asked = recipe(
        GroundedTablesConfig,
        tables=tables, modules=MINI, attempts={"train": 4}, samples={"1k": 2, "10k": 3, "40k": 4},
        epochs={"1": 1, "10": 2}, **options,
    )  # fmt: skip
    learning = tiny_grounded.learning(train=TRAIN)
    return GroundedTables(data(), learning, asked, bench(root, **(models or {})))


def iosd(root: Path, *tables: str, models: dict[str, Path] | None = None, **options: Any):
    one = {"templates": ["a {}"]}
    data = tiny_grounded.config(sets=SINGLE, prompts=one, generation={"steps": 1, "guidance": 0.0})
    asked = recipe(
        IosdTablesConfig,
        tables=tables, templates=["a {} and a {}"],
        modules={"gd": "mini-gd", "iosd": "mini-iosd"},
        splits={"PASCAL": ["mini1", "mini2", "mini3"], "COCO": None},
        attempts={"train": 3}, evaluations=1, **options,
    )  # fmt: skip
    plain = tiny_grounded.config().generation
    learning = tiny_grounded.learning(train=TRAIN)
    return IosdTables(data, plain, learning, asked, bench(root, **(models or {})))


def test_the_papers_rows_and_figures() -> None:
    tables = GroundedTablesConfig.published.tables
    rows = {name: {row.name: row for row in table.rows} for name, table in tables.items()}
    assert rows["results"]["Improved model"].paper == {
        "Seen": 77.20, "Seen+Unseen": 67.50, "Unseen": 58.43
    }  # fmt: skip
    assert rows["prompts"]["a photograph of x"].paper["Test Unseen"] == 34.16
    assert rows["losses"]["Log-Cosh Dice + BCE"].paper["Seen+Unseen"] == 44.26
    # The same module on the same samples in three tables.
    standard = rows["versions"]["Stable Diffusion 1.5"].paper
    assert {f"Standard {name}": value for name, value in standard.items()}.items() <= (
        rows["checkpoints"]["Standard"].paper.items()
    )
    assert rows["quality"]["High-Quality"].paper == {"CLIP-IQA+ Score": 75.50}
    assert len(rows["dropout"]) == 4 and rows["dropout"]["0.1"].paper["Unseen"] == 49.99
    for table in tables.values():
        for row in table.rows:
            assert bool(row.paper) != row.own, row.name
            assert set(row.paper) <= {*table.columns}
    splits = {row.name: row for row in IosdTablesConfig.published.tables["splits"].rows}
    for method in ("DAAM", "GD", "Ours"):
        for column, mean in splits[f"{method}, Average"].paper.items():
            parts = [splits[f"{method}, Split{number}"].paper[column] for number in (1, 2, 3)]
            # DAAM's 57.76 is printed, where the three have 57.86.
            off = 0.11 if (method, column) == ("DAAM", "COCO unseen") else 0.011
            assert np.mean(parts) == pytest.approx(mean, abs=off), (method, column)
    switches = {row.name: row for row in IosdTablesConfig.published.tables["switches"].rows}
    for row in switches.values():
        for name in ("seen", "unseen") if row.paper else ():
            gap = row.paper[name] - switches["G.D."].paper[name]
            # The paper's DS on seen classes is 1.93 above G.D., and printed as 1.97.
            assert row.paper[f"imp. {name}"] == pytest.approx(gap, abs=0.041)
    assert switches["DSFP"].paper["iter."] == 10000


def test_rows_share_samples_and_modules(tmp_path: Path) -> None:
    exchanged = "Improved model, names exchanged"
    rows = ("Improved model", "Improved model (with scoring)", "DAAM", exchanged, "Chance")
    asked = grounded(tmp_path, "results", rows=rows)
    (table,) = run_tables(asked, (0, 1))
    assert [row.name for row in table.rows] == list(rows)
    assert {"Seen", "Seen+Unseen", "Unseen", "Unseen, per image", "samples"} == (
        set(table.rows[0].mean) - {"Seen, per image", "Seen+Unseen, per image"}
    )
    assert all(row.seeds == 2 and row.commit for row in table.rows)
    assert table.rows[0].mean["samples"] <= 3 and table.rows[0].paper["Seen"] == 77.20
    assert "Improved model (with scoring) > Improved model (Seen)" in {
        entry.claim for entry in table.orderings
    }
    # One module a seed; two choices of samples are measured with it; DAAM has no seed.
    assert len(list((tmp_path / "modules").glob("*/module.safetensors"))) == 2
    assert len(list((tmp_path / "measured").glob("module-*/test_*.json"))) == 2 * 6
    assert len(list((tmp_path / "measured").glob("daam-*"))) == 2, "a folder and its seconds"
    assert len(list((tmp_path / "measured").glob("exchanged-*/test_*.json"))) == 2 * 3
    files = {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")}
    assert run_tables(asked, (0, 1)) == [table]
    assert {p: p.stat().st_mtime_ns for p in tmp_path.rglob("*.safetensors")} == files


def test_exchanged_names_have_the_masks_of_one_another(tmp_path: Path) -> None:
    samples = tiny_grounded.separable(tmp_path, "train", 6)

    class Numbers:
        def masks(self, features, names):
            return [torch.arange(len(each)).float()[:, None, None] for each in names]

    asked, exchanged = (
        _Reading(Numbers(), lambda part: {}, other).scores(list(samples)) for other in (False, True)
    )
    assert max(len(each) for each in asked) > 1
    for plain, other in zip(asked, exchanged, strict=True):
        assert np.array_equal(plain[::-1], other)


def test_prompts_are_measured_on_training_samples(tmp_path: Path) -> None:
    asked = grounded(tmp_path, "prompts", rows=("x",))
    (table,) = run_tables(asked, (0,))
    assert set(table.rows[0].mean) == {"Training Seen", "Test Unseen", "Test Unseen, per image"}
    config = asked.config(asked.asked.table("prompts").rows[0], 5)
    assert config.learning.query.template == "x" and config.learning.train.seed == 5
    assert config.learning.sizes.dropout == 0 and config.learning.train.epochs == 1
    assert config.samples == 3


def test_models_that_there_are_not(tmp_path: Path) -> None:
    asked = grounded(tmp_path, "versions", "checkpoints", "quality")
    found = dict(asked.tables())
    assert [row.name for row in found["versions"].rows] == ["Stable Diffusion 1.5"]
    assert "no folder is given for the model: version2" in found["versions"].note
    assert "fine_tuned" in found["checkpoints"].note and not found["checkpoints"].claims
    assert [row.name for row in found["quality"].rows] == ["Standard"]
    config = asked.config(found["checkpoints"].rows[0], 0)
    assert config.tested == ("standard",)


def test_modules_are_tested_on_both_checkpoints(tmp_path: Path) -> None:
    other = {"fine_tuned": tiny_png.backbone(1).folder}
    checkpoints, quality = run_tables(
        grounded(tmp_path, "checkpoints", "quality", models=other), (0,)
    )
    for row in checkpoints.rows:
        assert {"Standard Unseen", "High-Quality Unseen"} <= set(row.mean)
    assert len(checkpoints.orderings) == 6
    # Two modules, each measured on both models' samples.
    assert len(list((tmp_path / "modules").glob("*/module.safetensors"))) == 2
    assert len(list((tmp_path / "measured").glob("module-*/test_unseen-*.json"))) == 4
    scores = [row.mean["CLIP-IQA+ Score"] for row in quality.rows]
    assert all(0 < score < 100 for score in scores) and scores[0] != scores[1]
    assert quality.orderings[0].claim == "High-Quality > Standard (CLIP-IQA+ Score)"


def test_the_filter(tmp_path: Path) -> None:
    asked = grounded(tmp_path, "filter", rows=("score 0.05", "score 0.8"))
    (table,) = run_tables(asked, (0,))
    low, high = table.rows
    config = asked.config(asked.asked.table("filter").rows[0], 0)
    assert config.samples is None and config.learning.train.steps == 2, "3 samples, 2 a step"
    assert low.mean["samples"] >= high.mean["samples"] and low.mean["passing"] >= 0
    if not high.mean["samples"]:
        assert high.mean["Seen"] is None, "nothing was learned"
    (noted,), figure = asked.with_passing([table])
    records = take(asked.bench, "train", "standard", data()).samples.source.records
    passed = sum(record.sure() >= 0.8 for record in records)
    assert "Of 4 attempts so many have every class at a score: " in noted.config["notes"][-1]
    assert f"{passed} at 0.8" in noted.config["notes"][-1]
    assert noted.rows == table.rows and isinstance(figure, Figure)
    assert [len(asked.with_passing(some)[1].axes) for some in ([table], [])] == [2, 1]


def test_chance_draws_other_masks(tmp_path: Path) -> None:
    samples = tiny_grounded.separable(tmp_path, "train", 6)
    drawn = Chance(samples, 0).scores(samples[:3])
    masks = {mask.tobytes() for sample in samples for mask in sample.masks.astype(np.float32)}
    for found, sample in zip(drawn, samples[:3], strict=True):
        assert found.shape == sample.masks.shape
        assert {mask.tobytes() for mask in found} <= masks
    again = Chance(samples, 0).scores(samples[:3])
    other = Chance(samples, 1).scores(samples[:3])
    assert all(np.array_equal(a, b) for a, b in zip(drawn, again, strict=True))
    assert not all(np.array_equal(a, b) for a, b in zip(drawn, other, strict=True))


def test_a_module_fits_the_model() -> None:
    gd, pyramid = MODULES["gd"], MODULES["mini-iosd"]
    assert fitted(gd, 4, guided=True) == gd
    assert fitted(gd, 3, guided=False).widths == (32, 64, 128)
    assert not fitted(gd, 3, guided=False).guided
    assert fitted(pyramid, 4, guided=True).widths == (8, 8, 16, 32)
    assert not fitted(pyramid, 4, guided=True).guided, "it never reads the unconditional half"


def test_nothing_to_learn_from(tmp_path: Path) -> None:
    choice = {"data": {"choice": {"least_score": 1.0}}}
    asked = grounded(tmp_path, "losses")
    config = asked.config(asked.asked.table("losses").rows[0].model_copy(update={"change": choice}))
    cell = run_cell(asked.bench, config)
    one = config.model_copy(update={"samples": 1, "data": config.test})
    few = run_cell(asked.bench, one)
    assert len(few.train.samples) == 1 and not few.scores, "a step takes two"
    assert not cell.scores and not len(cell.train.samples) and cell.train.passing == 0


def test_switches_and_splits(tmp_path: Path) -> None:
    turbo: dict[str, Path] = {"turbo": tiny_grounded.turbo().folder}
    rows = ("G.D.", "DSF", "DSFP, tested with its prompts", "Ours, Split1", "Ours, Average")
    asked = iosd(tmp_path, "splits", "switches", models=turbo, rows=rows)
    configs = {row.name: asked.config(row, 3) for name in asked.asked.tables
               for row in asked.asked.table(name).rows}  # fmt: skip
    plain, full = configs["G.D."], configs["DSF"]
    assert plain.data.sets["train"].attempts == 3 and plain.data.sets["val"].attempts == 2
    assert plain.model == "standard" and plain.data.generation.guidance == 5.0
    assert full.model == "turbo" and full.test.generation.steps == 1
    assert plain.learning.sizes.widths == MODULES["mini-gd"].widths
    assert full.learning.sizes.pyramid and full.learning.sizes.widths == (8, 16, 32)
    prompted = configs["DSFP, tested with its prompts"]
    assert prompted.data.prompts.asked == prompted.test.prompts.asked == "one"
    assert configs["Ours, Split1"] == full and full.learning.train.seed == 3
    splits, switches = run_tables(asked, (0,))
    one, mean = splits.rows
    assert set(one.mean) == {
        "PASCAL seen", "PASCAL unseen", "PASCAL seen, per image", "PASCAL unseen, per image"
    }  # fmt: skip
    assert set(mean.paper) == {"PASCAL seen", "PASCAL unseen"}, "no COCO here"
    gd, dsf = switches.rows[:2]
    assert gd.mean["imp. seen"] == 0
    assert dsf.mean["imp. unseen"] == pytest.approx(dsf.mean["unseen"] - gd.mean["unseen"])
    assert dsf.mean["seen"] == one.mean["PASCAL seen"] and dsf.mean["iter."] == 2
    assert "DSF > G.D. (seen)" in {entry.claim for entry in switches.orderings}
    assert "Table 2" in render(ResultTable.model_validate(switches.model_dump()))


def test_no_turbo_no_rows_of_it(tmp_path: Path) -> None:
    found = dict(iosd(tmp_path, "splits", "switches").tables())
    assert {row.name for row in found["switches"].rows} == {"G.D.", "SF, the model of G.D."}
    assert "no folder is given for the model: turbo" in found["splits"].note
    with pytest.raises(ValidationError, match="no dataset has any"):
        recipe(IosdTablesConfig, splits={"PASCAL": None, "COCO": None})


def test_convergence() -> None:
    steps = [{"step": 10.0 * n, "class": value} for n, value in enumerate((20, 49.5, 40, 50), 1)]
    assert converged(steps) == 20 and converged([]) is None
