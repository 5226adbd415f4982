"""A split or list that does not exist ends a run before its first node."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import pytest
import tiny_png
import tiny_text2mask
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.validation import ParameterValidationError
from pydantic import ValidationError
from recipes import recipe
from tiny_text2mask import tables_config
from tiny_world import SMALL

from diffground.adapters.datasets import DataFolderDataset, TargetFolderDataset
from diffground.adapters.hooks.asked_splits import check_splits
from diffground.errors import InputError
from diffground.ground.config import GroundConfig
from diffground.papers.png.keys import PngConfig
from diffground.pipeline_registry import register_pipelines
from diffground.world.config import WorldConfig

PNG = {
    "scale": "mini",
    "precision": "float32",
    "data": {},
    "model": {},
    "train": {"max_steps": 1, "batch_size": 1, "learning_rate": 1},
}


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    return register_pipelines()


def check(pipeline: Pipeline, coco: Path, voc: Path, **given: Any) -> None:
    """Checks ``pipeline``, whose data are in ``coco`` and ``voc``; ``given`` are its parameters."""
    catalog = DataCatalog()
    for name in pipeline.inputs():
        if name.startswith("params:"):
            catalog[name] = MemoryDataset(given.get(name.removeprefix("params:"), "other"))
    for name, folder in (("coco", coco), ("voc2012", voc), ("coco2014", voc.parent / "coco2014")):
        catalog[name] = DataFolderDataset(filepath=str(folder))
        catalog[f"{name}_folder"] = TargetFolderDataset(filepath=str(folder))
    catalog["text2mask_images"] = TargetFolderDataset(filepath=str(voc.parent / "images"))
    check_splits(pipeline, catalog)


def png(**splits: Any) -> PngConfig:
    return recipe(PngConfig, **(PNG | {"splits": splits}))


def world(**changes: Any) -> WorldConfig:
    return WorldConfig.model_validate(SMALL | changes)


@pytest.mark.parametrize("make", [True, False])
@pytest.mark.parametrize(
    ("name", "field", "reads"),
    [
        ("png_train", "train", True),
        ("png_train", "val", True),
        ("png_eval", "train", False),
        ("png_eval", "val", True),
        ("png_tables", "train", True),
        ("feature_extraction", "train", True),
        ("ground", "val", True),
    ],
)
def test_splits_of_narratives(
    tmp_path: Path, pipelines: dict[str, Pipeline], make: bool, name: str, field: str, reads: bool
) -> None:
    """Of data that the run makes, and of somebody's own, of which only val may be there."""
    coco = tmp_path / "coco" if make else tiny_png.make_benchmark(tmp_path / "coco")
    given = {"world": world(make=make), "ground": recipe(GroundConfig)}
    check(pipelines[name], coco, tmp_path / "voc", png=png(), **given)
    wrong = png(**{field: "nonexistent"})
    if not reads:
        check(pipelines[name], coco, tmp_path / "voc", png=wrong, **given)
        return
    message = rf"png: splits\.{field}: there is no split 'nonexistent' .* train2017, val2017"
    with pytest.raises(InputError, match=message):
        check(pipelines[name], coco, tmp_path / "voc", png=wrong, **given)


def test_ones_own_image_needs_no_split(tmp_path: Path, pipelines: dict[str, Pipeline]) -> None:
    own = recipe(GroundConfig, source=Path("a.jpg"), words="a [ball]")
    given = {"world": world(), "ground": own, "png": png(val="nonexistent")}
    check(pipelines["ground"], tmp_path / "coco", tmp_path / "voc", **given)


@pytest.mark.parametrize("make", [True, False])
@pytest.mark.parametrize(
    ("field", "source", "named"),
    [
        ("val", {"dataset": "voc2012", "split": "test", "labels": "none"}, "Segmentation/test.txt"),
        ("source", {"dataset": "voc2012", "split": "test", "labels": "none"}, "test.txt"),
        ("test", {"dataset": "voc2012", "split": "test", "labels": "none"}, "test.txt"),
        ("val", {"dataset": "coco2014", "split": "val"}, "ImageSets: there is no such folder"),
        ("val", {"dataset": "folder"}, "labels.csv: list: there is no such file"),
    ],
)
def test_lists_of_images(
    tmp_path: Path,
    pipelines: dict[str, Pipeline],
    make: bool,
    field: str,
    source: dict[str, str],
    named: str,
) -> None:
    voc = tmp_path / "voc2012"
    if not make:  # a copy without the list of test, and without COCO beside it
        lists = voc / "VOCdevkit/VOC2012/ImageSets/SegmentationAug"
        lists.mkdir(parents=True)
        for split in ("train_aug", "val"):
            (lists / f"{split}.txt").write_text("/JPEGImages/a.jpg /SegmentationClassAug/a.png\n")
    given = {"world": world(make=make, voc2012={"train": 1, "aug": 0, "val": 1, "test": 0})}
    fine = tiny_text2mask.config()
    check(pipelines["text2mask"], tmp_path, voc, text2mask=fine, **given)
    wrong = type(fine).model_validate(fine.model_dump() | {field: source})
    with pytest.raises(InputError, match=rf"text2mask: {field}: .*{named}"):
        check(pipelines["text2mask"], tmp_path, voc, text2mask=wrong, **given)


def test_lists_of_the_tables(tmp_path: Path, pipelines: dict[str, Pipeline]) -> None:
    content = {
        "tables": ["noises"],
        "train": {"dataset": "voc2012", "split": "train"},
        "coco": {
            "train": {"dataset": "coco2014", "split": "train"},
            "val": {"dataset": "coco2014", "split": "val"},
        },
    }
    given = {"world": world(), "text2mask": tiny_text2mask.config()}
    tables = tables_config(**content)
    folders = (tmp_path, tmp_path / "voc2012")
    check(pipelines["text2mask_tables"], *folders, text2mask_tables=tables, **given)
    content["coco"]["val"] = {"dataset": "folder"}  # type: ignore[index]
    wrong = tables_config(**content)
    with pytest.raises(InputError, match=r"text2mask_tables: coco\.val: .*labels\.csv"):
        check(pipelines["text2mask_tables"], *folders, text2mask_tables=wrong, **given)


def test_an_empty_list_is_named(tmp_path: Path, pipelines: dict[str, Pipeline]) -> None:
    lists = tmp_path / "voc2012/VOCdevkit/VOC2012/ImageSets/SegmentationAug"
    lists.mkdir(parents=True)
    (lists / "train_aug.txt").write_text("\n")
    given = {"world": world(make=False), "text2mask": tiny_text2mask.config()}
    with pytest.raises(InputError, match=r"text2mask: source: .*train_aug\.txt is empty"):
        check(pipelines["text2mask"], tmp_path, tmp_path / "voc2012", **given)


@pytest.mark.parametrize("dataset", ["coco_panoptic", "voc2012", "coco2014"])
@pytest.mark.parametrize("split", ["train", "val"])
def test_a_world_without_images_takes_no_place(dataset: str, split: str) -> None:
    changes = {dataset: SMALL[dataset] | {split: 0}}
    with pytest.raises(ValidationError, match=rf"{dataset}\.{split} is 0: at least one image"):
        world(**changes)
    assert world(make=False, **changes)  # of one's own data a split may be missing


@pytest.mark.parametrize(
    ("given", "named"),
    [
        ({"png": {"splits": {"val": "nonexistent"}}}, r"splits\.val: there is no split"),
        ({"world": {"coco_panoptic": {"train": 0}}}, r"coco_panoptic\.train is 0"),
    ],
)
def test_no_node_runs(
    root: Path, monkeypatch: pytest.MonkeyPatch, given: dict[str, Any], named: str
) -> None:
    """In the project itself: its first node would make the world."""

    def made(*args: object) -> None:
        pytest.fail("a node ran")

    monkeypatch.setattr("diffground.world.coco_panoptic.make_coco_panoptic", made)
    bootstrap_project(root)
    with KedroSession.create(root, runtime_params=given) as session:
        with pytest.raises((InputError, ParameterValidationError), match=named):
            session.run(pipeline_names=["png_train"])
