"""Rows and features of other code are made again, and say which commit made them."""

from __future__ import annotations

from pathlib import Path

import pytest
import tiny_png
from recipes import recipe

from diffground.data import png_doctor as doctor
from diffground.data.config import PngSplits
from diffground.data.png_reading import Narratives, examine_training_data
from diffground.experiments.runner import run_tables
from diffground.metrics import average_recall
from diffground.papers.png import eipa, features
from diffground.papers.png.feature_extraction import FeatureExtractionConfig, extract_features
from diffground.papers.png.feature_store import FeatureStore
from diffground.papers.png.features import feature_key
from diffground.papers.png.keys import PngFolders
from diffground.papers.png.tables import PngAblations
from diffground.papers.png.tables_config import PngTablesConfig
from diffground.store.manifest import read_manifest


@pytest.fixture
def coco(tmp_path: Path) -> Path:
    return tiny_png.make_benchmark(tmp_path / "coco")


@pytest.fixture
def why(caplog):
    """The code versions because of which something was made again since it was asked last."""

    def lines() -> list[str]:
        found = [m for m in caplog.messages if "made again, as the code" in m]
        caplog.clear()
        return [line.partition("another one: ")[2] for line in found]

    return lines


PNG = tiny_png.config(
    train={"max_steps": 2, "batch_size": 2}, eval={"batch_size": 3, "overlays": 0}
)


def test_rows_keep_the_commit_that_measured_them_until_their_code_changes(
    tmp_path, coco, made_by, monkeypatch, why
):
    names = "+ MLMA", "+ EIPA + MLMA"
    asked = recipe(PngTablesConfig, tables=("components",), rows=names, seeds=(0,))
    folders = PngFolders(coco, tmp_path / "models", doctor=tmp_path / "models")

    def commits() -> tuple[list[str], str]:
        ablations = PngAblations(PNG, asked, folders, tiny_png.backbone())
        (table,) = run_tables(ablations, asked.seeds)
        assert [row.name for row in table.rows] == list(names)
        return [row.commit for row in table.rows], table.commit

    first = made_by("a")
    assert commits() == ([first, first], first)
    second = made_by("b")
    assert commits() == ([first, first], second) and why() == []  # both are found
    monkeypatch.setattr(eipa, "CODE_VERSION", 2)
    assert commits() == ([first, second], second)
    assert why() == ["eipa 1 → 2"]
    assert commits() == ([first, second], second) and why() == []
    third = made_by("c")
    monkeypatch.setattr(average_recall, "CODE_VERSION", 2)
    assert commits() == ([f"{first}, {third}", f"{second}, {third}"], third)  # trained, measured
    assert why() == ["average_recall 1 → 2"] * 2


def test_features_of_other_code_are_extracted_again(tmp_path, coco, made_by, monkeypatch, why):
    config = recipe(FeatureExtractionConfig, num_workers=0, batch_size=2, block_size=2)
    read = Narratives.read(coco, "train2017", "auto", limit=None, max_phrases=30)
    backbone = tiny_png.backbone()

    def made() -> tuple[int, str]:
        """How many shards were written, and by which commits those that are there."""
        key = feature_key(PNG, read, backbone)
        found = extract_features(backbone, read.samples, key, tmp_path / "features", config)
        assert FeatureStore.open(tmp_path / "features", key) is not None
        return found["made"], read_manifest(key.folder(tmp_path / "features")).made.commit

    first = made_by("a")
    count, by = made()
    assert count > 1 and by == first
    second = made_by("b")
    assert made() == (0, first)
    next((tmp_path / "features").rglob("latents-00000.safetensors")).unlink()
    assert made() == (1, f"{first}, {second}") and why() == []
    monkeypatch.setattr(features, "CODE_VERSION", 2)
    assert made() == (count, second) and why() == ["features 1 → 2"]


def test_findings_of_an_older_doctor_are_not_taken(tmp_path, coco, monkeypatch, why):
    def examine() -> None:
        examine_training_data(coco, recipe(PngSplits), 30, tmp_path / "models")

    examine()
    examine()
    assert why() == []
    monkeypatch.setattr(doctor, "CODE_VERSION", 2)
    examine()
    assert why() == ["png_doctor 1 → 2"]
    assert len(list((tmp_path / "models").glob("doctor-*.json"))) == 2
