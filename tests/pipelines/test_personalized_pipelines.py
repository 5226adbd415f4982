"""The pipelines of personal objects over a tiny dataset and a tiny diffusion model."""

from __future__ import annotations

import json
import logging
from pathlib import Path

import pytest
import tiny_png
import tiny_text2mask
from memory_runs import run_in_memory
from PIL import Image
from recipes import recipe
from tiny_personalized import config, world

from diffground.experiments.result_tables import ResultTable
from diffground.papers.personalized.checks_config import TokenChecksConfig
from diffground.papers.personalized.tables_config import PersonalizedTablesConfig
from diffground.pipelines.personalized import create_pipeline


@pytest.fixture
def run(tmp_path: Path):
    """Runs parts of the pipeline and returns all that they made, by name."""

    def _run(*parts: str, **changes):
        tables = recipe(
            PersonalizedTablesConfig, tables=["variant"], rows=["Ours", "Chance"], figures=1
        )
        inputs = {
            "mug19": world(),
            "text2mask_diffusion": tiny_png.backbone().folder,
            "personalized_tokens_folder": tmp_path / "tokens",
            "personalized_answers_folder": tmp_path / "answers",
            "params:personalized": config(**changes),
            "params:personalized_tables": tables,
            "params:personalized_checks": recipe(TokenChecksConfig, items=2, images=2, steps=2),
            "params:text2mask": tiny_text2mask.config(),
            "voc2012": tiny_text2mask.world() / "voc2012",
            **{f"personalized_{part}": tmp_path / part for part in ("clip", "segmenter", "vit")},
        }
        needed = create_pipeline(parts).inputs()
        return run_in_memory(
            create_pipeline(parts), {name: inputs[name] for name in inputs if name in needed}
        )

    return _run


def test_from_photos_to_scores(run, tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    with caplog.at_level(logging.INFO, "diffground"):
        out = run("scenes", "method")
    assert out["mug19_doctor"]["items"] == 19 and "# Mug19" in out["mug19_doctor_text"]
    assert out["mug19_doctor"]["deep"]["problems"] == []
    scenes = out["personalized_scenes"]
    assert len(scenes.views) == 2
    tokens, answers = out["personalized_tokens_report"], out["personalized_answers_report"]
    assert tokens["made"] == len(scenes.items) and answers["made"] == 2
    assert out["personalized_tokens"].parent == tmp_path / "tokens"
    assert out["personalized_answers"] == tmp_path / "answers" / answers["folder"]
    metrics = out["personalized_metrics"]
    assert metrics["splits"]["all"]["triplets"] == sum(
        "all" in t.splits for view in scenes.views for t in view.triplets
    )
    assert "ours, all: mIoU" in caplog.text
    assert isinstance(out["personalized_overlays"], Image.Image)
    json.dumps([tokens, answers, metrics, out["mug19_doctor"]])
    again = run("scenes", "method")
    assert again["personalized_tokens_report"]["made"] == 0
    assert again["personalized_metrics"] == metrics


def test_what_learning_did(run) -> None:
    out = run("scenes", "method", "checks")
    found = out["personalized_checks"]
    assert len(found["items"]) == 2 and found["images"] == 2 and found["scale"] == "mini"
    assert found["tokens"] == out["personalized_tokens"].name
    assert found["classes"]["drop"] == pytest.approx(
        found["classes"]["before"] - found["classes"]["after"]
    )
    assert isinstance(out["personalized_token_pictures"], Image.Image)
    json.dumps(found)


def test_the_tables_and_the_figure(run) -> None:
    out = run("scenes", "tables")
    (table,) = [ResultTable.model_validate(content) for content in out["personalized_tables"]]
    assert table.table.startswith("Table B.10") and table.rows[0].seeds == 3
    assert table.rows[0].paper["Variant af_acc"] == 88.3 and not table.rows[1].paper
    assert table.orderings[-1].claim == "Ours > Chance (Variant af_acc)"
    assert "Table B.10" in out["personalized_tables_text"]
    assert isinstance(out["personalized_figure5"], Image.Image)
