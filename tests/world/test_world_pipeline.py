"""The `world` pipeline: its configuration, making only what is missing, and data of one's own."""

from __future__ import annotations

import os
import signal
import time
from collections.abc import Callable
from multiprocessing import get_context
from pathlib import Path

import pytest
from kedro.io import DataCatalog
from kedro.runner import SequentialRunner
from omegaconf import OmegaConf
from pydantic import ValidationError

from diffground.adapters.config_loader import ProjectConfigLoader
from diffground.adapters.datasets import DataFolderDataset, TargetFolderDataset
from diffground.errors import InputError
from diffground.pipelines.world import create_pipeline
from diffground.pipelines.world.nodes import maker
from diffground.store.manifest import is_valid
from diffground.world import voc
from diffground.world.config import WorldConfig
from diffground.world.datasets import DATASETS
from diffground.world.own_data import check_dataset

VOC = "VOCdevkit/VOC2012"
make_voc2012 = maker("voc2012")


def with_voc(config: WorldConfig, **counts: int) -> WorldConfig:
    voc2012 = config.voc2012.model_dump() | counts
    return WorldConfig.model_validate(config.model_dump() | {"voc2012": voc2012})


@pytest.mark.parametrize("env", ["mini", "paper"])
def test_configuration(conf: Callable[[str], ProjectConfigLoader], env: str) -> None:
    loader = conf(env)
    config = WorldConfig.model_validate(loader["parameters"]["world"])
    assert config.make == (env == "mini")
    parameters = loader["parameters"]
    trained = {config.seed, parameters["foundation"]["scenes"]["seed"]}
    held_out = {config.eval_seed, *parameters["foundation_quality"]["eval_seeds"]}
    assert len(trained) == 2 and not trained & held_out, "what judges is drawn apart"
    for name in DATASETS:
        entry, target = loader["catalog"][name], loader["catalog"][f"{name}_folder"]
        assert entry["filepath"] == target["filepath"]
        assert ("mini" in entry["filepath"]) == entry["manifest"] == config.make


@pytest.mark.parametrize(
    ("wrong", "message"),
    [
        ({"eval_seed": 2017}, "eval_seed must differ"),
        ({"size": 100}, "size 100 is no multiple of 8"),
        ({"sizes": []}, "at least 1 item"),
        ({"sizes": [0.9]}, "less than or equal to 0.8"),
        ({"mug19": {"scene_width": 64}}, "is not 1.5 times the height"),
        ({"mug19": {"min_references": 11}}, "min_references 11 > max_references 6"),
        ({"voc2012": {"train": -1}}, "greater than or equal to 0"),
        ({"voc2012": {"validation": 1}}, "Extra inputs are not permitted"),
    ],
)
def test_wrong_configuration(config: WorldConfig, wrong: dict, message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        WorldConfig.model_validate(
            OmegaConf.to_container(OmegaConf.merge(config.model_dump(), wrong))
        )


def test_runs_under_kedro(tmp_path: Path, config: WorldConfig) -> None:
    """A slice of the pipeline, over the datasets of the catalog."""
    path = str(tmp_path / "coco2014")
    entries = {
        "coco2014_folder": TargetFolderDataset(filepath=path),
        "coco2014": DataFolderDataset(filepath=path),
    }
    catalog = DataCatalog(entries)
    catalog["params:world"] = config
    pipeline = create_pipeline(["coco2014"])
    assert [node.name for node in pipeline.nodes] == ["make_coco2014"]
    SequentialRunner().run(pipeline, catalog)
    assert catalog.load("coco2014") == tmp_path / "coco2014"
    assert {node.name for node in create_pipeline().nodes} == {f"make_{name}" for name in DATASETS}


def test_what_is_valid_is_not_made_again(tmp_path: Path, config: WorldConfig) -> None:
    folder = tmp_path / "voc2012"
    make_voc2012(config, folder)
    times = {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    other = config.model_copy(update={"coco2014": type(config.coco2014)(train=1, val=1)})
    make_voc2012(other, folder)  # another dataset's counts are no reason
    assert times == {path: path.stat().st_mtime_ns for path in folder.rglob("*")}
    smaller = config.model_copy(update={"sizes": (0.3,)})
    assert not is_valid(folder, smaller.recipe("voc2012", voc.CODE_VERSION))
    fewer = with_voc(config, aug=1)
    make_voc2012(fewer, folder)
    assert len(list((folder / VOC / "JPEGImages").iterdir())) == 12
    assert is_valid(folder, fewer.recipe("voc2012", voc.CODE_VERSION))
    next((folder / VOC / "JPEGImages").iterdir()).unlink()
    make_voc2012(fewer, folder)
    assert len(list((folder / VOC / "JPEGImages").iterdir())) == 12


def test_a_killed_making_leaves_nothing_valid(tmp_path: Path, config: WorldConfig) -> None:
    folder = tmp_path / "voc2012"
    long = with_voc(config, train=100_000)
    process = get_context("fork").Process(target=voc.make_voc2012, args=(folder, long))
    process.start()
    deadline = time.monotonic() + 60
    while len(list(tmp_path.rglob("*.png"))) < 6:
        assert process.is_alive() and time.monotonic() < deadline
        time.sleep(0.02)
    assert process.pid is not None
    os.kill(process.pid, signal.SIGKILL)
    process.join()
    assert not is_valid(folder) and not list(tmp_path.rglob("manifest.json"))
    make_voc2012(config, folder)
    assert is_valid(folder, config.recipe("voc2012", voc.CODE_VERSION))
    names = {path.name for path in tmp_path.iterdir() if not path.name.endswith(".lock")}
    assert names == {"voc2012"}, "nothing of the killed one is left"


def test_ones_own_data_are_looked_at(world: Path, config: WorldConfig) -> None:
    """With `make: false` the mini folders pass for somebody's own: the layouts are the same."""
    own = config.model_copy(update={"make": False})
    for name in DATASETS:
        assert maker(name)(own, world / name) == world / name


def test_own_data_in_cocos_own_layout(tmp_path: Path, world: Path, config: WorldConfig) -> None:
    source = world / "coco"
    (tmp_path / "annotations").mkdir()
    for split in ("train2017", "val2017"):
        (tmp_path / split).symlink_to(source / "images" / split)
        masks = tmp_path / "annotations" / f"panoptic_{split}"
        masks.symlink_to(source / "annotations/panoptic_segmentation" / split)
        for name in (f"panoptic_{split}.json", f"png_coco_{split}.json"):
            (tmp_path / "annotations" / name).symlink_to(source / "annotations" / name)
    check_dataset(tmp_path, "coco_panoptic", config)
    (tmp_path / "val2017").unlink()
    with pytest.raises(InputError, match="images/val2017 or val2017: there is no such file"):
        check_dataset(tmp_path, "coco_panoptic", config)


def test_missing_own_data_are_named(tmp_path: Path, world: Path, config: WorldConfig) -> None:
    own = with_voc(config, train=1464).model_copy(update={"make": False})
    with pytest.raises(InputError, match=f"{tmp_path / 'voc'}: folder: there is no such folder"):
        make_voc2012(own, tmp_path / "voc")
    with pytest.raises(InputError, match=r"JPEGImages: \*.jpg: 15 of 1473 files are there"):
        make_voc2012(own, world / "voc2012")
    (tmp_path / "mug19").mkdir()
    with pytest.raises(InputError, match="items.json: there is no such file"):
        maker("mug19")(own, tmp_path / "mug19")
