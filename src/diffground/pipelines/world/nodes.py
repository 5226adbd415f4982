"""Adapts the writers of :mod:`diffground.world` to the catalog: one node per dataset."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

from diffground.world.config import WorldConfig
from diffground.world.datasets import DATASETS, make_dataset


def maker(entry: str) -> Callable[[WorldConfig, Path], Path]:
    """The function of a catalog entry's node, which reads the folder from ``<entry>_folder``."""

    def make(world: WorldConfig, folder: Path) -> Path:
        """Makes the dataset if it is ours to make; otherwise it must be there, and complete."""
        from diffground.world.own_data import check_dataset

        if world.make:
            make_dataset(entry, folder, world)
        else:
            check_dataset(folder, DATASETS[entry][0], world)
        return folder

    return make
