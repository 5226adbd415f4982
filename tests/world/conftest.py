"""A small mini world on disk, made once."""

from __future__ import annotations

from pathlib import Path

import pytest
from tiny_world import SMALL

from diffground.world.coco_panoptic import make_coco_panoptic
from diffground.world.coco_segmentation import make_coco2014
from diffground.world.config import WorldConfig
from diffground.world.mug19 import make_mug19
from diffground.world.voc import make_voc2012


@pytest.fixture(scope="session")
def config() -> WorldConfig:
    return WorldConfig.model_validate(SMALL | {"coco_panoptic": {"train": 24, "val": 6}})


@pytest.fixture(scope="session")
def world(tmp_path_factory: pytest.TempPathFactory, config: WorldConfig) -> Path:
    """The folder of ``coco``, ``voc2012``, ``coco2014`` and ``mug19``."""
    root = tmp_path_factory.mktemp("world")
    make_coco_panoptic(root / "coco", config)
    make_voc2012(root / "voc2012", config)
    make_coco2014(root / "coco2014", config)
    make_mug19(root / "mug19", config)
    return root
