"""Looks at datasets that are somebody's own: is everything there, and is it all of it?"""

from __future__ import annotations

import os
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffground.errors import InputError
from diffground.world.config import WorldConfig


@dataclass(frozen=True)
class Need:
    """A file or folder at one of ``places``; a folder holds at least ``count`` ``suffix`` files."""

    places: tuple[str, ...]
    suffix: str = ""
    count: int = 0


def check_dataset(folder: Path, dataset: str, config: WorldConfig) -> None:
    """Checks that ``folder`` holds the dataset ``dataset`` (a field of the configuration).

    Raises:
        InputError: naming the folder or file that is missing, or how many files are.
    """
    if not folder.is_dir():
        raise InputError(folder, "folder", f"there is no such folder; the data of `{dataset}` go "
                         "there, or name another folder in globals.yml")  # fmt: skip
    for need in needs(dataset, getattr(config, dataset)):
        _check(folder, need, dataset)


def needs(dataset: str, counts: Any) -> Iterable[Need]:
    """What a dataset of these counts consists of, parts of which none is wanted left out."""
    match dataset:
        case "coco_panoptic":
            for split, count in (("train2017", counts.train), ("val2017", counts.val)):
                if count:
                    yield Need((f"annotations/panoptic_{split}.json",))
                    yield Need((f"annotations/png_coco_{split}.json",))
                    yield Need((f"images/{split}", split), ".jpg", count)
                    masks = f"annotations/panoptic_segmentation/{split}"
                    yield Need((masks, f"annotations/panoptic_{split}"), ".png", count)
        case "voc2012":
            base = "VOCdevkit/VOC2012"
            labelled = counts.train + counts.aug + counts.val
            for name in ("train", "train_aug", "val"):
                yield Need((f"{base}/ImageSets/SegmentationAug/{name}.txt",))
            if counts.test:
                yield Need((f"{base}/ImageSets/Segmentation/test.txt",))
            yield Need((f"{base}/JPEGImages",), ".jpg", labelled + counts.test)
            yield Need((f"{base}/SegmentationClassAug",), ".png", labelled)
        case "coco2014":
            for split, count in (("train", counts.train), ("val", counts.val)):
                yield Need((f"COCO2014/ImageSets/SegmentationClass/{split}.txt",))
                yield Need((f"COCO2014/JPEGImages/{split}2014",), ".jpg", count)
            yield Need(("COCO2014/Annotations",), ".png", counts.train + counts.val)
        case "mug19":
            for name in ("items.json", "scenes.json", "triplets.json", "items", "scenes", "masks"):
                yield Need((name,))


def _check(folder: Path, need: Need, dataset: str) -> None:
    there = [folder / place for place in need.places if (folder / place).exists()]
    if not there:
        raise InputError(folder, " or ".join(need.places), "there is no such file or folder")
    if need.suffix:
        with os.scandir(there[0]) as entries:
            found = sum(entry.name.endswith(need.suffix) for entry in entries)
        if found < need.count:
            raise InputError(
                there[0],
                f"*{need.suffix}",
                f"{found} of {need.count} files are there; unpack the archive again (some programs "
                f"stop early), or, to work with a part, change the counts of `world.{dataset}`",
            )
