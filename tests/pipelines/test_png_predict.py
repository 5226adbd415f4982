"""The prediction pipeline over a tiny benchmark and a tiny diffusion model."""

from __future__ import annotations

import json

import pytest
import tiny_png
from kedro.io import DataCatalog, MemoryDataset
from kedro.runner import SequentialRunner
from recipes import recipe

from diffground.adapters.datasets import DataFolderDataset
from diffground.errors import InputError
from diffground.papers.png.config import PredictConfig
from diffground.pipelines.png import create_pipeline


def run(folder, predict=None, **model):
    inputs = {
        "coco": tiny_png.benchmark().root,
        "png_models_folder": folder / "models",
        "png_doctor_folder": folder / "doctor",
        "panoptic_weights": folder / "panoptic",
        "stable_diffusion": tiny_png.backbone().folder,
        "png_predict_folder": folder / "out",
        "params:png": tiny_png.config(model={"decode": False, **model}),
        "params:png_predict": predict or recipe(PredictConfig),
    }
    datasets = {name: MemoryDataset(value) for name, value in inputs.items()}
    datasets["png_predict"] = DataFolderDataset(
        filepath=str(folder / "out"), markers=["report.json"]
    )
    SequentialRunner().run(create_pipeline(["predict"]), DataCatalog(datasets))
    return datasets["png_predict"].load()


def test_prediction_with_the_defaults(tmp_path):
    folder = run(tmp_path, insertion="none")
    report = json.loads((folder / "report.json").read_text())
    assert report["grounded"][0]["phrases"] == ["ball", "grass"]
    assert report["grounded"][0]["phrases_by"] == "given"
    assert report["variant"].startswith("none-")
    assert {path.name for path in folder.glob("0*.png")} == {"00_ball.png", "01_grass.png"}


def test_a_model_that_was_not_trained_names_the_pipeline_that_does(tmp_path):
    with pytest.raises(InputError, match="run the pipeline png_train"):
        run(tmp_path, insertion="both")
    assert not (tmp_path / "out").exists()


def test_a_model_is_taken_by_its_name_whatever_the_settings(tmp_path):
    trained = tiny_png.model(insertion="none", inner_product="frozen", decode=False)
    trained.save(tmp_path / "models" / "mine")
    folder = run(
        tmp_path, recipe(PredictConfig, model="mine"), insertion="both"
    )  # which is not trained
    report = json.loads((folder / "report.json").read_text())
    assert (report["variant"], report["head"]) == ("mine", "inner")
    with pytest.raises(InputError, match="By name there are: mine"):
        run(tmp_path, recipe(PredictConfig, model="other"), insertion="both")
