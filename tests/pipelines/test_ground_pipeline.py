"""The pipeline over a tiny benchmark and a tiny diffusion model."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_grounded
import tiny_png
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from recipes import recipe

from diffground.adapters.datasets import MadeFolderDataset
from diffground.errors import InputError
from diffground.ground.config import GroundConfig
from diffground.papers.grounded.trained import new_module, save_module
from diffground.pipelines.ground import create_pipeline


def run(folder: Path, *, model: dict[str, Any] | None = None, **changes: Any) -> tuple[Path, Any]:
    """The folder that was made, and the report."""
    asked = {"method": "narrative", "device": "cpu", **changes}
    inputs = {
        "coco": tiny_png.benchmark().root,
        "png_models_folder": folder / "models",
        "grounding_models_folder": folder / "modules",
        "png_doctor_folder": folder / "doctor",
        "panoptic_weights": folder / "panoptic",
        "stable_diffusion": tiny_png.backbone().folder,
        "ground_folder": folder / "out",
        "params:png": tiny_png.config(model={"decode": False, **(model or {})}),
        "params:ground": recipe(GroundConfig, **asked),
    }
    datasets = {name: MemoryDataset(value) for name, value in inputs.items()}
    datasets["ground"] = MadeFolderDataset(filepath=str(folder / "out"), markers=["report.json"])
    datasets["ground_report"] = MemoryDataset()
    SequentialRunner().run(create_pipeline(), DataCatalog(datasets))
    return datasets["ground"].load(), datasets["ground_report"].load()


def test_without_an_image_the_first_of_the_benchmark_is_grounded(tmp_path: Path) -> None:
    folder, report = run(tmp_path, model={"insertion": "none"})
    assert folder == tmp_path / "out/narrative-sample"
    (found,) = report["grounded"]
    assert [row["text"] for row in found["phrases"]] == ["ball", "grass"]
    assert found["phrases_by"] == "given" and report["names"][1].startswith("none-")
    assert {path.name for path in folder.glob("0*.png")} == {"00_ball.png", "01_grass.png"}


def test_a_model_that_was_not_trained_names_the_pipeline_that_does(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="run the pipeline png_train"):
        run(tmp_path, model={"insertion": "both"})
    assert not (tmp_path / "out").exists()


def test_a_model_is_taken_by_its_name_whatever_the_settings(tmp_path: Path) -> None:
    trained = tiny_png.model(insertion="none", inner_product="frozen", decode=False)
    trained.save(tmp_path / "models" / "mine")
    _, report = run(tmp_path, model={"insertion": "both"}, checkpoint="mine")
    assert report["names"][1] == "mine" and report["method"] == "narrative"
    with pytest.raises(InputError, match="By name there are: mine"):
        run(tmp_path, model={"insertion": "both"}, checkpoint="other")


def test_a_module_is_taken_by_its_name(tmp_path: Path) -> None:
    card = tiny_grounded.card()
    module = new_module(tiny_png.backbone(), card.module, seed=0)
    save_module(tmp_path / "modules/mine", card, module)
    folder, report = run(
        tmp_path, method="grounded", checkpoint="mine", prompt="a red circle", words="red circle"
    )
    assert folder == tmp_path / "out/grounded-a_red_circle" and (folder / "image.png").exists()
    assert report["names"][1] == "mine"
    with pytest.raises(InputError, match="there are: mine"):
        run(tmp_path, method="grounded", checkpoint="other")
