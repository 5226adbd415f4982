"""Adapts the writers of :mod:`diffground.world` to the catalog: one node per dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffground.store.manifest import Manifest
from diffground.world.config import WorldConfig


def make_coco(world: WorldConfig, folder: Path) -> Path:
    """COCO-2017 panoptic segmentation with panoptic narratives."""
    from diffground.world.coco_panoptic import make_coco_panoptic

    return _made(folder, "coco_panoptic", world, make_coco_panoptic)


def make_voc2012(world: WorldConfig, folder: Path) -> Path:
    """PASCAL VOC 2012 segmentation."""
    from diffground.world.voc import make_voc2012 as make

    return _made(folder, "voc2012", world, make)


def make_coco2014(world: WorldConfig, folder: Path) -> Path:
    """COCO-2014 semantic segmentation."""
    from diffground.world.coco_segmentation import make_coco2014 as make

    return _made(folder, "coco2014", world, make)


def make_mug19(world: WorldConfig, folder: Path) -> Path:
    """Mug19: personal mugs and scenes of them."""
    from diffground.world.mug19 import make_mug19 as make

    return _made(folder, "mug19", world, make)


def _made(
    folder: Path, dataset: str, world: WorldConfig, make: Callable[[Path, WorldConfig], Manifest]
) -> Path:
    """Makes the dataset if it is ours to make; otherwise it must be there, and complete."""
    if world.make:
        make(folder, world)
    else:
        from diffground.world.own_data import check_dataset

        check_dataset(folder, dataset, world)
    return folder
