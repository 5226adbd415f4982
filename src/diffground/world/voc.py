"""Writes scenes as PASCAL VOC 2012 segmentation, with the augmented training lists.

The layout is the development kit's, with the lists and masks that weakly supervised methods add::

    VOCdevkit/VOC2012/
      JPEGImages/2012_xxxxxx.jpg
      SegmentationClass/      indexed PNGs in the VOC colours, of train and val
      SegmentationClassAug/   grey PNGs of the same labels, of all images but test's
      ImageSets/Segmentation/{train,val,trainval,test}.txt       ids; test has no masks
      ImageSets/SegmentationAug/{train,train_aug,trainval,trainval_aug,val}.txt
          "/JPEGImages/2012_xxxxxx.jpg /SegmentationClassAug/2012_xxxxxx.png"
      labels.txt              "0<tab>background", ...

Labels are 0 for the background, 1..14 for the things, and 255 along the outlines of the objects.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

from diffground.io.files import write_lines
from diffground.io.images import write_jpeg, write_png
from diffground.io.labels import write_labels
from diffground.progress import progress
from diffground.seeds import derive_seed
from diffground.store.manifest import Manifest, make_folder
from diffground.world.config import WorldConfig
from diffground.world.pictures import CLASS_NAMES, class_mask
from diffground.world.render import render
from diffground.world.scene import sample_scene

# Raised when the same configuration gives other files, here or in the scenes that are drawn.
CODE_VERSION: Final = 1

# Number of a part's first image
FIRST = {"train": 0, "aug": 200_000, "val": 400_000, "test": 600_000}
LISTS = {  # list -> the parts it is made of
    "train": ("train",),
    "train_aug": ("train", "aug"),
    "trainval": ("train", "val"),
    "trainval_aug": ("train", "aug", "val"),
    "val": ("val",),
}


def make_voc2012(folder: Path, config: WorldConfig) -> Manifest:
    """Writes ``config.voc2012`` under ``folder``, unless a valid one is there.

    An image's files depend on its part (train, aug, val, test) and its index there, not on counts.
    """
    return make_folder(
        folder, config.recipe("voc2012", CODE_VERSION), lambda partial: _write(partial, config)
    )


def list_paths(config: WorldConfig) -> set[str]:
    """The lists of images that :func:`make_voc2012` writes, below ``VOCdevkit/VOC2012``."""
    found = {f"ImageSets/SegmentationAug/{title}.txt" for title in LISTS}
    found |= {f"ImageSets/Segmentation/{title}.txt" for title in LISTS if title[-4:] != "_aug"}
    return found | ({"ImageSets/Segmentation/test.txt"} if config.voc2012.test else set())


def image_name(part: str, index: int) -> str:
    """``2012_xxxxxx`` of image ``index`` of a part."""
    assert 0 <= index < 200_000, index
    return f"2012_{FIRST[part] + index:06d}"


def _write(root: Path, config: WorldConfig) -> None:
    base = root / "VOCdevkit" / "VOC2012"
    for name in ("JPEGImages", "SegmentationClass", "SegmentationClassAug"):
        (base / name).mkdir(parents=True)
    names: dict[str, list[str]] = {}
    for part, count in config.voc2012.model_dump().items():
        held_out = part in ("val", "test")
        seed = derive_seed(config.eval_seed if held_out else config.seed, "voc2012", part)
        names[part] = [image_name(part, index) for index in range(count)]
        for index, name in enumerate(progress(names[part], f"VOC2012 {part}")):
            rendering = render(sample_scene(seed, index, config.sizes), config.size)
            write_jpeg(base / "JPEGImages" / f"{name}.jpg", rendering.image)
            if part == "test":
                continue
            labels = class_mask(rendering, borders=True)
            write_png(base / "SegmentationClassAug" / f"{name}.png", labels)
            if part != "aug":
                write_labels(base / "SegmentationClass" / f"{name}.png", labels)
    for title, parts in LISTS.items():
        chosen = [name for part in parts for name in names[part]]
        lines = [f"/JPEGImages/{name}.jpg /SegmentationClassAug/{name}.png" for name in chosen]
        write_lines(base / "ImageSets" / "SegmentationAug" / f"{title}.txt", lines)
        if not title.endswith("_aug"):
            write_lines(base / "ImageSets" / "Segmentation" / f"{title}.txt", chosen)
    if names["test"]:
        write_lines(base / "ImageSets" / "Segmentation" / "test.txt", names["test"])
    write_lines(base / "labels.txt", [f"{row}\t{name}" for row, name in enumerate(CLASS_NAMES)])
