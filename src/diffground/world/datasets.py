"""The mini world's datasets by the names that the catalog and the console command have for them.

Writers are imported when they run: the names alone cost a command no time.
"""

from __future__ import annotations

from importlib import import_module
from pathlib import Path
from typing import TYPE_CHECKING

if TYPE_CHECKING:
    from diffground.world.config import WorldConfig

# Name -> its counts in the configuration, and its writer.
DATASETS = {
    "coco": ("coco_panoptic", "coco_panoptic", "make_coco_panoptic"),
    "voc2012": ("voc2012", "voc", "make_voc2012"),
    "coco2014": ("coco2014", "coco_segmentation", "make_coco2014"),
    "mug19": ("mug19", "mug19", "make_mug19"),
}


def make_dataset(name: str, folder: Path, config: WorldConfig) -> None:
    """Draws a dataset, unless a valid one is there; InputError for somebody else's files."""
    _, module, writer = DATASETS[name]
    getattr(import_module(f"diffground.world.{module}"), writer)(folder, config)
