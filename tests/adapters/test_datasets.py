"""Folder datasets: a wrong folder is named at once, with what to do about it."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.io import AbstractDataset, DataCatalog, DatasetError

from diffground.adapters.datasets import (
    DataFolderDataset,
    DiffusionFolderDataset,
    MadeFolderDataset,
    ModelFolderDataset,
    TargetFolderDataset,
)
from diffground.adapters.datasets.files import RecordsDataset
from diffground.errors import InputError
from diffground.store.manifest import make_folder


def fill(folder: Path) -> None:
    (folder / "unet").mkdir()
    (folder / "unet" / "config.json").write_text("{}")


def test_model_folder(tmp_path: Path) -> None:
    folder = tmp_path / "sd"
    dataset = ModelFolderDataset(
        filepath=str(folder), markers=["unet/config.json", "tok*/*"], remedy="download it"
    )
    with pytest.raises(DatasetError, match=rf"{folder}: folder: there is no such.*; download it"):
        dataset.load()
    assert not dataset.exists()
    folder.mkdir()
    fill(folder)
    with pytest.raises(DatasetError, match=r"tok\*/\*: the folder lacks it; download it"):
        dataset.load()
    (folder / "tokenizer").mkdir()
    (folder / "tokenizer" / "vocab.json").write_text("{}")
    before = dataset.fingerprint()
    assert dataset.load() == folder and dataset.exists()
    (folder / "unet" / "config.json").write_text('{"changed": 1}')
    assert dataset.fingerprint() != before


def test_diffusion_folder_is_checked_like_the_backbone_does(tmp_path: Path) -> None:
    from tiny_png import make_diffusion

    from diffground.backbone.frozen import FrozenDiffusion

    folder = make_diffusion(tmp_path / "sd")
    dataset = DiffusionFolderDataset(filepath=str(folder))
    assert dataset.load() == folder
    assert dataset.fingerprint() == FrozenDiffusion.from_pretrained(folder).fingerprint()
    next((folder / "unet").glob("*.safetensors")).unlink()
    with pytest.raises(DatasetError, match="unet"):
        dataset.load()


def test_save_checks_what_the_node_made(tmp_path: Path) -> None:
    dataset = ModelFolderDataset(filepath=str(tmp_path / "sd"))
    with pytest.raises(DatasetError, match="another folder"):
        dataset.save(tmp_path / "elsewhere")
    with pytest.raises(DatasetError, match="no such folder"):
        dataset.save(tmp_path / "sd")
    (tmp_path / "sd").mkdir()
    dataset.save(tmp_path / "sd")


def test_data_folder_must_be_whole(tmp_path: Path) -> None:
    folder = tmp_path / "coco"
    dataset = DataFolderDataset(filepath=str(folder), remedy="kedro run --pipelines world")
    manifest = make_folder(folder, {"scenes": 1}, fill)
    assert dataset.load() == folder and dataset.manifest() == manifest
    assert dataset.fingerprint() == manifest.digest
    (folder / "unet" / "config.json").unlink()
    with pytest.raises(DatasetError, match=r"not whole.*; kedro run --pipelines world"):
        dataset.load()


def test_downloaded_data_need_no_manifest(tmp_path: Path) -> None:
    fill(tmp_path)
    dataset = DataFolderDataset(filepath=str(tmp_path), markers=["unet/*.json"], manifest=False)
    assert dataset.load() == tmp_path and dataset.manifest() is None and dataset.fingerprint()


def test_target_folder_need_not_exist(tmp_path: Path) -> None:
    dataset = TargetFolderDataset(filepath=str(tmp_path / "new"))
    assert dataset.load() == tmp_path / "new"
    with pytest.raises(DatasetError, match="an input"):
        dataset.save(tmp_path / "new")


def test_of_made_folders_the_last_ones_are_handed_on(tmp_path: Path) -> None:
    def dataset() -> MadeFolderDataset:
        return MadeFolderDataset(filepath=str(tmp_path), remedy="kedro run --pipelines maps")

    first = dataset()
    with pytest.raises(DatasetError, match=r"nothing was made here yet; kedro run"):
        first.load()
    made = {"source": tmp_path / "train-1", "val": tmp_path / "val-1"}
    with pytest.raises(DatasetError, match="val-1: folder: there is no such folder"):
        (tmp_path / "train-1").mkdir()
        first.save(made)
    make_folder(tmp_path / "val-1", {"scenes": 1}, fill)
    first.save(made)
    assert first.load() == dataset().load() == made and dataset().folder == tmp_path
    before = dataset().fingerprint()
    make_folder(tmp_path / "val-1", {"scenes": 2}, fill)
    assert dataset().fingerprint() != before
    with pytest.raises(DatasetError, match="the node wrote elsewhere"):
        dataset().save({"val": tmp_path.parent})
    dataset().save(made["val"])
    assert dataset().load() == dataset().folder == made["val"]


def test_samples_are_read_back_as_they_were(tmp_path: Path) -> None:
    """Also by a later run: it begins in the middle of a pipeline."""
    import tiny_png
    import tiny_text2mask

    from diffground.data.png_reading import Narratives
    from diffground.papers.text2mask.keys import Splits

    def kept(of: type, data: object) -> object:
        name = "Splits" if of is Splits else "Narratives"
        module = {"Splits": "papers.text2mask.keys", "Narratives": "data.png_reading"}[name]
        settings = {"filepath": str(tmp_path / f"{name}.json"), "of": f"diffground.{module}.{name}"}
        RecordsDataset(**settings).save(data)
        return RecordsDataset(**settings).load()

    splits = {"source": tiny_text2mask.split(tmp_path)}
    assert kept(Splits, splits) == splits
    narratives = Narratives.read(
        tiny_png.benchmark().root, "train2017", "auto", limit=None, max_phrases=30
    )
    assert kept(Narratives, narratives) == narratives


def test_from_a_catalog(tmp_path: Path) -> None:
    catalog = DataCatalog.from_config(
        {
            "model": {
                "type": "diffground.adapters.datasets.ModelFolderDataset",
                "filepath": str(tmp_path),
                "metadata": {"description": "a model"},
            }
        }
    )
    assert catalog.load("model") == tmp_path
    dataset = catalog.get("model")
    assert isinstance(dataset, AbstractDataset) and dataset.metadata == {"description": "a model"}


def test_markers_are_a_list(tmp_path: Path) -> None:
    with pytest.raises(InputError, match="must be a list"):
        ModelFolderDataset(filepath=str(tmp_path), markers="unet/config.json")
