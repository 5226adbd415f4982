"""Adapts the writers of :mod:`diffground.world` to the catalog: one node per dataset."""

from __future__ import annotations

from collections.abc import Callable
from importlib import import_module
from pathlib import Path

from diffground.world.config import WorldConfig

# Catalog entry -> its counts in the configuration, and its writer. A node reads the path of the
# folder from `<entry>_folder`.
DATASETS = {
    "coco": ("coco_panoptic", "coco_panoptic", "make_coco_panoptic"),
    "voc2012": ("voc2012", "voc", "make_voc2012"),
    "coco2014": ("coco2014", "coco_segmentation", "make_coco2014"),
    "mug19": ("mug19", "mug19", "make_mug19"),
}


def maker(entry: str) -> Callable[[WorldConfig, Path], Path]:
    """The function of a catalog entry's node."""
    dataset, module, writer = DATASETS[entry]

    def make(world: WorldConfig, folder: Path) -> Path:
        """Makes the dataset if it is ours to make; otherwise it must be there, and complete."""
        from diffground.world.own_data import check_dataset

        if world.make:
            getattr(import_module(f"diffground.world.{module}"), writer)(folder, world)
        else:
            check_dataset(folder, dataset, world)
        return folder

    return make
