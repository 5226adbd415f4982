"""The pipelines that show and hand on what grounded generation made, at tiny sizes."""

from __future__ import annotations

import json
import logging
from pathlib import Path
from typing import Any

import pytest
import tiny_grounded
import tiny_png
import tiny_text2mask
from memory_runs import run_in_memory
from PIL import Image
from recipes import recipe

from diffground.errors import InputError
from diffground.papers.grounded.export_config import ExportConfig, TeachingConfig
from diffground.papers.grounded.figure_config import GroundingFigureConfig
from diffground.papers.grounded.samples import SyntheticSet
from diffground.papers.grounded.scoring import score_set
from diffground.papers.grounded.trained import new_module, save_module
from diffground.pipelines.grounded import create_pipeline
from diffground.shipped import shipped


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """A set, its scores, and a module that was not trained."""
    root = tmp_path_factory.mktemp("made")
    config = tiny_grounded.config()
    samples = root / "sets" / tiny_grounded.made(root / "sets")["folder"]
    clip = shipped("data/06_models/mini-clip")
    opened = SyntheticSet.open(samples)
    scores = score_set(opened, tiny_grounded.frozen(), clip, root / "scores", config)["folder"]
    card = tiny_grounded.card()
    save_module(root / "module", card, new_module(tiny_png.backbone(), card.module, seed=0))
    return {
        "grounding_samples": {"train": samples},
        "grounding_scores": {"train": root / "scores" / scores},
        "grounding_module": root / "module",
    }


@pytest.fixture
def run(made: dict[str, Any], tmp_path: Path):
    """Runs parts of the pipeline and returns all that they made, by name."""

    def _run(*parts: str, **changes: Any) -> dict[str, Any]:
        row = {"prompt": "a photo of a red circle and a sofa", "classes": ["sofa"]}
        inputs = {
            **made,
            "stable_diffusion": tiny_png.backbone().folder,
            "grounding_export_folder": tmp_path / "export",
            "grounding_teaching_masks_folder": tmp_path / "masks",
            "grounding_teaching_folder": tmp_path / "models",
            "voc2012": tiny_text2mask.world() / "voc2012",
            "coco2014_folder": tiny_text2mask.world() / "coco2014",
            "text2mask_images": tmp_path / "images",
            "params:grounding_data": tiny_grounded.config(),
            "params:grounding_export": recipe(ExportConfig).model_copy(
                update={"splits": {"train": "train"}} | changes
            ),
            "params:grounding_teaching": TeachingConfig(max_steps=2, seeds=(0, 1)),
            "params:text2mask": tiny_text2mask.config(),
            "params:grounding_figure": recipe(GroundingFigureConfig, scale="mini", rows=[row]),
        }
        pipeline = create_pipeline(parts)
        needed = pipeline.inputs()
        return run_in_memory(pipeline, {n: inputs[n] for n in inputs if n in needed})

    return _run


def test_from_a_set_to_a_dataset_and_a_segmenter(
    run, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    with caplog.at_level(logging.INFO, "diffground"):
        out = run("export", "teaching")
    exported, report = out["grounding_export"], out["grounding_export_report"]
    assert exported == tmp_path / "export" / report["folder"] and report["complete"]
    kept = json.loads((exported / "provenance.json").read_text())
    assert all(0 <= row["quality"] <= 1 for row in kept["samples"])
    teaching = out["grounding_teaching"]
    assert [row["teacher"] for row in teaching["rows"]] == [
        "background", "synthetic", "synthetic", "real", "real",
    ]  # fmt: skip
    rows = [row["scores"]["miou"] for row in teaching["rows"]]
    assert teaching["means"]["real"]["miou"] == pytest.approx((rows[3] + rows[4]) / 2)
    assert out["grounding_teaching_models"].keys() == {
        "synthetic-0", "synthetic-1", "real-0", "real-1",
    }  # fmt: skip
    assert "DeepLabV2, taught by synthetic: mIoU" in caplog.text
    json.dumps([report, teaching])
    again = run("export", "teaching")
    assert again["grounding_export_report"]["made"] == 0
    assert again["grounding_teaching"]["means"] == teaching["means"]


def test_a_split_of_a_set_that_there_is_not(run) -> None:
    with pytest.raises(InputError, match=r"splits\.val: there is no set 'test'; there are train"):
        run("export", splits={"val": "test"})


def test_figure_1(run) -> None:
    assert isinstance(run("figure")["grounding_figure1"], Image.Image)
