"""The small world that several tests draw: 64 pixels, a handful of images."""

from __future__ import annotations

from typing import Any

from recipes import recipe

from diffground.world.config import WorldConfig

SIZES = recipe(WorldConfig).sizes  # heights of things, as in every mini world

SMALL: dict[str, Any] = {
    "make": True,
    "size": 64,
    "sizes": SIZES,
    "seed": 2017,
    "eval_seed": 4242,
    "coco_panoptic": {"train": 1, "val": 1},
    "voc2012": {"train": 6, "aug": 4, "val": 3, "test": 2},
    "coco2014": {"train": 5, "val": 3},
    "mug19": {
        "scenes": 20,
        "views": 2,
        "min_references": 5,
        "max_references": 6,
        "scene_width": 128,
    },
}
