"""A synthetic set as a dataset that others can train on, in the layouts of COCO and of PASCAL VOC::

    <split>-<key>/
      images/{train,val}/<id>.jpg                       COCO panoptic segmentation, with the prompts
      annotations/panoptic_{train,val}.json             as panoptic narratives: class words name
      annotations/panoptic_segmentation/{train,val}/    their segments
      annotations/png_coco_{train,val}.json
      VOCdevkit/VOC2012/JPEGImages/<id>.jpg             PASCAL VOC, labels of the dataset that the
      VOCdevkit/VOC2012/SegmentationClass/<id>.png      class split is of; 255 is unsure
      VOCdevkit/VOC2012/ImageSets/Segmentation/{train,val}.txt
      VOCdevkit/VOC2012/labels.txt
      provenance.json                                   what every picture and mask was made of
      README.md                                         the same in words, and the licence

It is a store (:mod:`diffground.store.items`), an item for every picture and one for the lists of
every split; a killed run loses one picture. How masks that overlap become labels is said in
:mod:`.labelled`. The folder's name holds a key of the samples themselves: another choice is another
folder, so that none ever holds pictures that its lists do not name.
"""

from __future__ import annotations

from collections.abc import Mapping
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffground.backbone.on_demand import Frozen
from diffground.errors import InputError
from diffground.io.files import write_compact, write_json, write_lines, write_whole
from diffground.io.images import write_jpeg, write_png
from diffground.io.labels import write_labels
from diffground.io.panoptic import (
    PanopticImage,
    category_rows,
    encode_panoptic,
    narrative_row,
    panoptic_json,
)
from diffground.papers.grounded import labelled
from diffground.papers.grounded.classes import ClassSplit
from diffground.papers.grounded.export_config import ExportConfig, Layout
from diffground.papers.grounded.export_notes import Part, provenance, readme
from diffground.papers.grounded.generation import shown
from diffground.papers.grounded.labelled import Labelled, check_all_asked
from diffground.provenance import Recipe, code_of
from diffground.store.items import Item, Summary
from diffground.store.manifest import config_hash
from diffground.training.sharing import fill_together

# Raised when the same samples give other files.
CODE_VERSION: Final = 1

VOC: Final = "VOCdevkit/VOC2012"
PROVENANCE, README = "provenance.json", "README.md"


def export(
    parts: Mapping[str, Part],
    split: ClassSplit,
    frozen: Frozen,
    root: Path,
    config: ExportConfig,
) -> Summary:
    """Writes what is missing of a dataset below ``root``; its folder is the summary's.

    Args:
        parts: by their splits, as many as ``config.splits``.
        split: the class split that the prompts are of.

    Raises:
        InputError: the samples are of another model, none is taken, a prompt names a class that
            the detector was not asked about, or a sample cannot be read.
    """
    writer = _Writer({name: _limited(part, config.limit) for name, part in parts.items()},
                     split, frozen, config)  # fmt: skip
    writer.check()
    folder = root / f"{split.name}-{config_hash(writer.recipe)[:12]}"

    def finish(item: str, image: NDArray[np.uint8] | None) -> None:
        writer.write(folder, item, image)

    summary = fill_together(
        folder, writer.recipe, writer.items(), writer.picture, finish,
        what="pictures and lists of", work=config.work,
    )  # fmt: skip
    for problem in summary["skipped"]["problems"]:
        reason = f"{problem['reason']} ({summary['skipped']['skipped']} such)"
        raise InputError(problem["file"], problem["field"], reason)
    return summary


class _Writer:
    """What is written of an item: a sample, the lists of a split, or what is said of all."""

    def __init__(
        self, parts: Mapping[str, Part], split: ClassSplit, frozen: Frozen, config: ExportConfig
    ) -> None:
        self.parts, self.split, self.frozen, self.config = parts, split, frozen, config
        self.labels = split.labels()

    @cached_property
    def places(self) -> dict[str, tuple[str, int]]:
        """Of a sample, by id: its split, and its index there."""
        return {
            record.id: (name, index)
            for name, part in self.parts.items()
            for index, record in enumerate(part.samples.records)
        }

    @cached_property
    def recipe(self) -> Recipe:
        """All that the files depend on."""
        return {
            "code": {"export": CODE_VERSION, **code_of(labelled)},
            "split": self.split.name,
            "layouts": list(self.config.layouts),
            "licence": self.config.licence,
            "parts": {
                name: {
                    "samples": part.samples.recipe,
                    "quality": config_hash(
                        {one: part.quality.get(one) for one in part.samples.records.ids}
                    ),
                }
                for name, part in self.parts.items()
            },
        }

    def check(self) -> None:
        """Raises InputError for samples that cannot be exported."""
        for name, part in self.parts.items():
            part.samples.source.check_model(self.frozen.fingerprint)
            if not len(part.samples):
                reason = f"{name} has none: the choice takes no sample of the set"
                raise InputError(part.samples.source.folder, "samples", reason)
            for record in part.samples.records:
                check_all_asked(record, self.split)

    def items(self) -> list[Item]:
        """Pictures first, what lists them afterwards."""
        layouts, items = self.config.layouts, []
        for name, part in self.parts.items():
            for record in part.samples.records:
                files = [path for layout in layouts for path in _files(layout, name, record.id)]
                items.append(Item(record.id, tuple(files), [record.prompt, record.seed, name]))
        for name in self.parts:
            indices = [path for layout in layouts for path in _indices(layout, name)]
            items.append(Item(_lists(name), tuple(indices)))
        about = [PROVENANCE, README, *([f"{VOC}/labels.txt"] if "voc" in layouts else [])]
        return [*items, Item("about", tuple(about))]

    def picture(self, item: str) -> NDArray[np.uint8] | None:
        """The picture of a sample; None of other items."""
        if item not in self.places:
            return None
        name, index = self.places[item]
        return shown(self.frozen.model, self.parts[name].samples[index].picture)

    def write(self, folder: Path, item: str, image: NDArray[np.uint8] | None) -> None:
        """The files of an item."""
        if image is not None:
            self._write_sample(folder, item, image)
            return
        for name, part in self.parts.items():
            if item == _lists(name):
                self._write_lists(folder, name, part)
                return
        content = provenance(self.parts, self.split, self.labels, self.config)
        write_json(folder / PROVENANCE, content)
        text = readme(content)
        write_whole(folder / README, lambda part: part.write_text(text, encoding="utf-8"))
        if "voc" in self.config.layouts:
            names = enumerate(self.split.vocabulary.label_names)
            write_lines(folder / VOC / "labels.txt", [f"{row}\t{name}" for row, name in names])

    def _write_sample(self, folder: Path, item: str, image: NDArray[np.uint8]) -> None:
        name, index = self.places[item]
        samples = self.parts[name].samples
        found = Labelled.of(samples.records[index], samples.choice)
        for layout in self.config.layouts:
            picture, mask = (folder / path for path in _files(layout, name, item))
            write_jpeg(picture, image)
            if layout == "coco":
                write_png(mask, encode_panoptic(found.segments))
            else:
                write_labels(mask, found.classes(self.labels))

    def _write_lists(self, folder: Path, name: str, part: Part) -> None:
        records = part.samples.records
        for layout in self.config.layouts:
            first, *others = (folder / path for path in _indices(layout, name))
            if layout == "voc":
                write_lines(first, records.ids)
                continue
            images, narratives = [], []
            for number, record in enumerate(records, start=1):
                found = Labelled.of(record, part.samples.choice)
                picture, mask = f"{record.id}.jpg", f"{record.id}.png"
                rows = found.rows(self.labels)
                images.append(PanopticImage(number, picture, mask, record.size, rows))
                narratives.append(narrative_row(number, 0, record.prompt, found.chunks(record)))
            about = {"description": f"synthetic pictures, {self.split.name}, see {PROVENANCE}"}
            by_label = sorted((label, name) for name, label in self.labels.items())
            categories = category_rows([(label, name, "object", True) for label, name in by_label])
            content = panoptic_json(images, categories, info=about, licence=self.config.licence)
            write_compact(first, content)
            write_compact(others[0], narratives)


def _files(layout: Layout, split: str, item: str) -> tuple[str, str]:
    """Picture and mask of a sample."""
    if layout == "voc":
        return f"{VOC}/JPEGImages/{item}.jpg", f"{VOC}/SegmentationClass/{item}.png"
    masks = f"annotations/panoptic_segmentation/{split}"
    return f"images/{split}/{item}.jpg", f"{masks}/{item}.png"


def _indices(layout: Layout, split: str) -> tuple[str, ...]:
    """What names the samples of a split."""
    if layout == "voc":
        return (f"{VOC}/ImageSets/Segmentation/{split}.txt",)
    return f"annotations/panoptic_{split}.json", f"annotations/png_coco_{split}.json"


def _lists(split: str) -> str:
    return f"lists of {split}"


def _limited(part: Part, limit: int | None) -> Part:
    return Part(part.samples[:limit], part.quality)
