"""Writes scenes as COCO-2014 semantic segmentation, the lists of weakly supervised methods.

::

    COCO2014/
      ImageSets/SegmentationClass/{train,val}.txt   "COCO_train2014_xxxxxxxxxxxx 3 7"
      JPEGImages/{train2014,val2014}/COCO_train2014_xxxxxxxxxxxx.jpg
      Annotations/xxxxxxxxxxxx.png                  grey, 0 = background, 1..14 = things

The numbers after the name are the image's classes, counted from 0 without the background.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np

from diffground.io.files import write_lines
from diffground.io.images import write_jpeg, write_png
from diffground.progress import progress
from diffground.seeds import derive_seed
from diffground.store.manifest import Manifest, make_folder
from diffground.world.config import WorldConfig
from diffground.world.pictures import class_mask
from diffground.world.render import render
from diffground.world.scene import sample_scene

# Raised when the same configuration gives other files, here or in the scenes that are drawn.
CODE_VERSION: Final = 1

FIRST = {"train": 9, "val": 400_042}  # image id of a split's first image


def make_coco2014(folder: Path, config: WorldConfig) -> Manifest:
    """Writes ``config.coco2014`` under ``folder``, unless a valid one is there.

    An image's files depend on its split and its index there, not on the counts.
    """
    return make_folder(
        folder, config.recipe("coco2014", CODE_VERSION), lambda partial: _write(partial, config)
    )


def list_paths() -> set[str]:
    """The lists of images that :func:`make_coco2014` writes, below ``COCO2014``."""
    return {f"ImageSets/SegmentationClass/{split}.txt" for split in FIRST}


def _write(root: Path, config: WorldConfig) -> None:
    base = root / "COCO2014"
    (base / "Annotations").mkdir(parents=True)
    (base / "ImageSets" / "SegmentationClass").mkdir(parents=True)
    for split, count in config.coco2014.model_dump().items():
        seed = derive_seed(config.eval_seed if split == "val" else config.seed, "coco2014", split)
        pictures = base / "JPEGImages" / f"{split}2014"
        pictures.mkdir(parents=True)
        lines = []
        for index in progress(range(count), f"COCO2014 {split}"):
            number = f"{FIRST[split] + index:012d}"
            token = f"COCO_{split}2014_{number}"
            rendering = render(sample_scene(seed, index, config.sizes), config.size)
            labels = class_mask(rendering, borders=False)
            write_jpeg(pictures / f"{token}.jpg", rendering.image)
            write_png(base / "Annotations" / f"{number}.png", labels)
            present = [str(label - 1) for label in np.unique(labels).tolist() if label]
            lines.append(" ".join((token, *present)))
        write_lines(base / "ImageSets" / "SegmentationClass" / f"{split}.txt", lines)
