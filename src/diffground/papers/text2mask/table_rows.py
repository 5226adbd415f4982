"""Where the rows of From Text to Mask's tables (002) are run, and what a row is."""

from __future__ import annotations

from collections.abc import Callable, Mapping
from contextlib import AbstractContextManager
from dataclasses import dataclass
from typing import Any, Protocol

from diffground.errors import InputError
from diffground.papers.text2mask.config import AnySource, Text2MaskConfig, Text2MaskFolders
from diffground.papers.text2mask.experiment import aggregate, label, measure
from diffground.papers.text2mask.keys import Frozen, Split
from diffground.papers.text2mask.tables_config import Text2MaskTablesConfig


class RowLog(Protocol):
    """What one row reports to."""

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        """The segmenter's losses, and the row's figures as ``table/<column>``."""

    def log_masks(self, split: Split, result: dict[str, Any]) -> None:
        """The masks of a split, and what they were measured to be."""

    def log_segmenter(self, split: Split, result: dict[str, Any]) -> None:
        """What a segmenter was found to be on a split."""


#: Opens what one row reports to: called with a name and the row's whole configuration.
OpenRow = Callable[[str, Text2MaskConfig], AbstractContextManager[RowLog]]


@dataclass(frozen=True)
class Bench:
    """What every row needs."""

    base: Text2MaskConfig
    tables: Text2MaskTablesConfig
    folders: Text2MaskFolders
    frozen: Frozen
    open_row: OpenRow | None = None

    def split(self, config: Text2MaskConfig, source: AnySource) -> Split:
        """A split under a row's configuration."""
        return Split.of(config, self.folders, source, self.frozen.fingerprint)

    def recipe(self) -> Split:
        """The tables' split under the recipe itself, with one noise, made and measured."""
        split = self.split(row_config(self.base, {"attention": {"noises": 1}}), self.tables.train)
        self.masks(split)
        return split

    def masks(self, split: Split, row: RowLog | None = None) -> dict[str, Any]:
        """Makes what is missing of a split's maps and masks; the mIoU, and images per second.

        ``"seconds"`` is what each folder took: rows that share one do not count it twice.
        ``"made"`` says who made masks and maps.
        """
        maps = aggregate(split, self.frozen)
        label(split)
        rate = maps["images"] / maps["seconds"] if maps["seconds"] else None
        spent = {split.maps.name: maps["seconds"]}
        found = measure(split)
        if row:
            row.log_masks(split, found)
        return found | {"seconds": spent, "images/s": rate, "made": split.made()}


def row_config(
    base: Text2MaskConfig, *changes: Mapping[str, Any], seed: int | None = None
) -> Text2MaskConfig:
    """The experiment behind a row: ``changes`` of its sections, and a seed.

    Both label files that are measured are kept, the others are not made: rows differ in no other.
    """
    content = base.model_dump()
    for change in ({"masks": {"initial": True, "label": True, "confidence": False}}, *changes):
        for section, values in change.items():
            nested = isinstance(values, Mapping) and isinstance(content.get(section), Mapping)
            content[section] = {**content[section], **values} if nested else values
    if seed is not None:
        content["seed"] = seed
    return Text2MaskConfig.model_validate(content)


def place_of(
    bench: Bench, place: str, change: Mapping[str, Any]
) -> tuple[Text2MaskConfig, AnySource]:
    """The configuration and the source of a row."""
    on_coco = place.startswith("coco")
    config = coco_config(bench, change) if on_coco else row_config(bench.base, change)
    if place == "train":
        return config, bench.tables.train
    if place.endswith("val"):
        if config.val is None:
            raise InputError("text2mask", "val", "is null: Tables 3 and 4 are measured on it")
        return config, config.val
    return config, config.source


def coco_config(bench: Bench, change: Mapping[str, Any]) -> Text2MaskConfig:
    """A row on COCO 2014, whose rows are asked for."""
    coco = bench.tables.coco
    assert coco is not None
    return row_config(bench.base, coco.change, {"source": coco.train, "val": coco.val}, change)
