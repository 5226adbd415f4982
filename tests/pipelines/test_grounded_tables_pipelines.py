"""The pipelines of the tables of grounded generation over tiny models."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_grounded
import tiny_png
from matplotlib.figure import Figure
from memory_runs import run_in_memory
from recipes import recipe

from diffground.experiments.result_tables import ResultTable
from diffground.papers.grounded.learning_config import MeasuringConfig
from diffground.papers.grounded.tables_config import GroundedTablesConfig, IosdTablesConfig
from diffground.pipelines.grounded import create_pipeline

SETS: dict[str, Any] = {
    "train": {"classes": "seen", "attempts": 3, "draw": "random"},
    "val": {"classes": "seen", "attempts": 2, "draw": "random"},
    "test_seen": {"classes": "seen", "attempts": 2, "draw": "each"},
    "test_unseen": {"classes": "unseen", "attempts": 2, "draw": "each"},
}
LEARNING = tiny_grounded.learning(
    train={"epochs": None, "steps": 2, "batch_size": 2, "evaluations": 1}
)


@pytest.fixture
def run(tmp_path: Path):
    """Runs a part of the pipeline and returns all that it made, by name."""

    def _run(part: str, **params: Any) -> dict[str, Any]:
        eval_ = recipe(MeasuringConfig, daam=None)
        inputs: dict[str, Any] = {
            "stable_diffusion": tiny_png.backbone().folder,
            "iosd_turbo": tmp_path / "nowhere",
            "grounded_fine_tuned": tmp_path / "nowhere",
            "grounded_version2": tmp_path / "nowhere",
            "grounding_segmenter": tiny_grounded.segmenter(),
            "grounding_clip": tiny_grounded.ROOT / "data/06_models/mini-clip",
            "grounded_table_scores_folder": tmp_path / "measured",
            **{f"params:{name}": value for name, value in params.items()},
        }
        for of in ("grounding", "iosd"):
            inputs[f"params:{of}_data"] = tiny_grounded.config(sets=SETS)
            inputs[f"params:{of}_train"] = LEARNING
            inputs[f"params:{of}_eval"] = eval_
            for kind in ("samples", "scores", "features", "models"):
                inputs[f"{of}_{kind}_folder"] = tmp_path / of / kind
        pipeline = create_pipeline([part])
        return run_in_memory(pipeline, {name: inputs[name] for name in pipeline.inputs()})

    return _run


def test_the_third_papers_tables(run) -> None:
    asked = recipe(
        GroundedTablesConfig,
        tables=["filter", "versions"], seeds=[0],
        rows=["score 0.3", "Stable Diffusion 1.5", "Stable Diffusion 2"],
        samples={"1k": 2, "10k": 2, "40k": 2}, epochs={"1": 1, "10": 1},
        modules={"gd": "mini-gd", "improved": "mini-improved", "iosd": "mini-iosd"},
    )  # fmt: skip
    out = run("tables", grounded_tables=asked)
    filtered, versions = map(ResultTable.model_validate, out["grounded_tables"])
    assert "so many have every class" in filtered.config["notes"][-1]
    assert versions.rows[0].paper["Seen"] == 67.96 and versions.scale == "mini"
    assert "version2" in versions.config["notes"][0]
    assert "Table 5" in out["grounded_tables_text"]
    assert isinstance(out["grounded_filter"], Figure)


def test_the_fourth_papers_tables(run) -> None:
    asked = recipe(
        IosdTablesConfig,
        tables=["switches"], rows=["G.D.", "DSF"], seeds=[0],
        splits={"PASCAL": ["mini1"] * 3, "COCO": None},
        modules={"gd": "mini-gd", "iosd": "mini-iosd"}, templates=["a {} and a {}"],
    )  # fmt: skip
    out = run("iosd_tables", iosd_tables=asked)
    (table,) = map(ResultTable.model_validate, out["iosd_tables"])
    assert table.rows[0].mean["imp. seen"] == 0 and "turbo" in table.config["notes"][0]
    assert "Table 2" in out["iosd_tables_text"]
