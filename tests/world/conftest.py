"""A small mini world on disk, made once."""

from __future__ import annotations

from pathlib import Path

import pytest

from diffground.world.coco_panoptic import make_coco_panoptic
from diffground.world.coco_segmentation import make_coco2014
from diffground.world.config import WorldConfig
from diffground.world.mug19 import make_mug19
from diffground.world.voc import make_voc2012

SMALL = {
    "size": 64,
    "seed": 2017,
    "eval_seed": 4242,
    "coco_panoptic": {"train": 24, "val": 6},
    "voc2012": {"train": 6, "aug": 4, "val": 3, "test": 2},
    "coco2014": {"train": 5, "val": 3},
    "mug19": {"scenes": 20, "views": 2, "max_references": 6, "scene_width": 128},
}


@pytest.fixture(scope="session")
def config() -> WorldConfig:
    return WorldConfig.model_validate(SMALL)


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, config: WorldConfig) -> Path:
    """The folder of ``coco``, ``voc2012``, ``coco2014`` and ``mug19``."""
    root = tmp_path_factory.mktemp("world")
    make_coco_panoptic(root / "coco", config)
    make_voc2012(root / "voc2012", config)
    make_coco2014(root / "coco2014", config)
    make_mug19(root / "mug19", config)
    return root
