"""The splits of one Text2Mask experiment, and the keys of their files.

Everything that files depend on goes into a key, and lies in a folder of that name: variants never
mix, a killed run goes on, and what is there is not made again. Maps do not depend on how the
background is scored, nor Cross on whether it is propagated, so such variants share them::

    <maps>/<split>-<key>/           one file per image, recipe.json and manifest.json
    <maps>/<split>-<key>.json       the seconds that they took
    <masks>/<split>-<key>/          label files, see diffground.masks.mask_files
"""

from __future__ import annotations

import hashlib
import logging
from collections.abc import Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Self

import numpy as np

from diffground.attention import aggregate, baselines
from diffground.attention.aggregate import ClassMaps, image_scores, initial_labels
from diffground.attention.config import AggregationConfig
from diffground.backbone import frozen
from diffground.data.image_lists import FolderList, FolderSource, open_list
from diffground.data.labelled_images import LabelledImage, folder_vocabulary, read_samples
from diffground.data.vocabulary import Vocabulary
from diffground.errors import InputError, ProblemReport
from diffground.io.files import read_json
from diffground.masks.mask_files import MaskWork, code_of_masks
from diffground.papers.text2mask.config import (
    AnySource,
    Text2MaskConfig,
    TextToMaskConfig,
)
from diffground.papers.text2mask.map_files import read_maps
from diffground.provenance import RECIPE, Made, code_of
from diffground.store.manifest import config_hash, read_manifest

log = logging.getLogger(__name__)

READ_WITH = ("source", "val", "test", "vocabulary", "limit")  # the settings that name samples


@dataclass(frozen=True)
class Split:
    """One split of a dataset under one configuration: its samples, and where their files lie.

    Attributes:
        report: lines of the list that could not be used.
        data: the dataset's hash.
        config: with what the dataset at hand sets, see ``AggregationConfig.for_dataset``.
        model: the frozen model's fingerprint; empty before it is asked for maps.
        maps, masks: the folders of its files; empty while they have no place.
    """

    source: AnySource
    samples: tuple[LabelledImage, ...]
    report: ProblemReport
    words: Vocabulary
    data: str
    config: Text2MaskConfig
    model: str = ""
    maps: Path = Path()
    masks: Path = Path()

    @classmethod
    def read(cls, config: Text2MaskConfig, roots: Mapping[str, Path], source: AnySource) -> Self:
        """Reads the list of a split; ``roots`` has the folder of each ``source.dataset``.

        Raises:
            InputError: the list is missing, the vocabulary is, or no sample can be used.
        """
        root = roots[source.dataset]
        words = _vocabulary(config, roots)
        report = ProblemReport()
        samples = tuple(read_samples(source, root, words, report, limit=config.limit))
        for problem in report.problems:
            log.warning("%s is skipped: %s: %s", problem.item, problem.file, problem.reason)
        if not samples:
            raise InputError(root, "samples", f"none of {report.total} lines can be used")
        data = _data_fingerprint(source, root)
        return cls(source, samples, report, words, data, config).under(config)

    def under(
        self, config: Text2MaskConfig, *, maps: Path | None = None, masks: Path | None = None
    ) -> Self:
        """The same samples under the settings of a later run.

        Args:
            maps, masks: folders that were made of them, at least of these settings.

        Raises:
            InputError: with these settings other samples are read; or maps or masks were made with
                others, or of other data.
        """
        for name in READ_WITH:
            if getattr(config, name) != getattr(self.config, name):
                reason = "the samples were read with another one; begin with read_text2mask_splits"
                raise InputError("text2mask", name, reason)
        attention = config.attention.for_dataset(self.words.dataset or self.source.dataset)
        split = replace(self, config=config.model_copy(update={"attention": attention}))
        if maps is not None:
            recipe = read_json(maps / RECIPE) or {}
            split = split.mapped(recipe.get("model", ""), maps.parent)
        if masks is not None:
            recipe = (read_json(masks / RECIPE) or {}).get("recipe", {}).get("maps", {})
            split = replace(split, model=recipe.get("model", "")).masked(masks.parent)
        for kind, given, asked in (("maps", maps, split.maps), ("masks", masks, split.masks)):
            if given not in (None, asked):
                reason = f"the {kind} were made with other settings, or of other data"
                raise InputError(given or "", RECIPE, f"{reason}: make them first")
        return split

    def mapped(self, fingerprint: str, root: Path) -> Self:
        """With a folder below ``root`` for the maps of this model."""
        asked = replace(self, model=fingerprint)
        return replace(asked, maps=root / f"{self.name}-{config_hash(asked.maps_recipe)[:12]}")

    def masked(self, root: Path) -> Self:
        """With a folder below ``root`` for the masks that are made of the maps."""
        return replace(self, masks=root / f"{self.name}-{config_hash(self.masks_key)[:12]}")

    @property
    def name(self) -> str:
        """As its dataset calls it."""
        source = self.source
        return source.dataset if isinstance(source, FolderSource) else source.split

    @property
    def maps_recipe(self) -> dict[str, Any]:
        """All that maps depend on."""
        config, attention = self.config, _shared(self.config.attention)
        baseline = attention.method in {"cbp", "daam", "daam_trajectory"}
        aside = {"background_threshold", "background_power", "noise_batch"}
        return {
            "code": code_of(frozen, aggregate, *([baselines] if baseline else [])),
            "model": self.model,
            "precision": config.precision,
            "seed": config.seed,
            **self.content,
            "words": self.words.model_dump(mode="json", exclude={"about", "dataset"}),
            "query": config.query.model_dump(mode="json"),
            "attention": attention.model_dump(mode="json", exclude=aside),
        }

    @property
    def content(self) -> dict[str, Any]:
        """Which images these are, and which true masks."""
        return {"source": self.source.model_dump(mode="json"), "data": self.data}

    @property
    def masks_recipe(self) -> dict[str, Any]:
        """What masks depend on besides the CRF."""
        attention = self.config.attention
        names = ("method", "background_threshold", "background_power")
        reading = {name: getattr(attention, name) for name in names}
        return {"maps": self.maps_recipe, "reading": reading}

    @property
    def masks_key(self) -> dict[str, Any]:
        """And with it."""
        files = self.config.masks.model_dump(mode="json", exclude={"crf": {"device"}})
        return self.masks_recipe | {"files": files, "code": code_of_masks()}

    def made(self) -> list[Made]:
        """Who made the maps and the masks, as far as they are whole."""
        found = (read_manifest(folder) for folder in (self.maps, self.masks))
        return [manifest.made for manifest in found if manifest]

    @property
    def method(self) -> TextToMaskConfig:
        """What is asked of the model."""
        attention = _shared(self.config.attention)
        return TextToMaskConfig(query=self.config.query, attention=attention, crf=None)

    @property
    def classes(self) -> tuple[str, ...]:
        """See :attr:`Vocabulary.label_names`."""
        return self.words.label_names

    def class_maps(self, item: str) -> ClassMaps:
        """The maps of an item as the configured method has them; InputError if there are none."""
        maps = read_maps(self.maps, item)
        if not _shares(self.config.attention):
            return maps
        match self.config.attention.method:
            case "cross":
                return maps.with_maps(maps.cross)
            case "cross+selfcross":
                return maps.with_maps((maps.maps + maps.cross) / 2)
        return maps

    def mask_work(self, sample: LabelledImage) -> MaskWork:
        """What the CRF wants of a sample.

        Raises:
            InputError: its image or its maps cannot be read, or do not belong to each other.
        """
        maps, image = self.class_maps(sample.id), sample.load_image()
        if maps.geometry.original != image.shape[:2]:
            reason = "the maps were made of another image; run attention_aggregation again"
            raise InputError(sample.image_path, "size", reason)
        ids = (0, *(self.words.index(key) for key in maps.keys))
        attention = self.config.attention
        return MaskWork(
            image=image,
            scores=image_scores(maps, attention).numpy(),
            label_ids=ids,
            initial=np.array(ids, np.uint8)[initial_labels(maps, attention)],
        )


#: By their part in the experiment: source, val and test. What the catalog's dataset reads.
Splits = dict[str, Split]


def _shares(attention: AggregationConfig) -> bool:
    """Whether the maps are read from the files of SelfCross.

    Not where the masks of several noises are averaged: Cross has other masks, draw by draw.
    """
    return attention.method in {"cross", "cross+selfcross"} and not attention.averages_masks


def _shared(attention: AggregationConfig) -> AggregationConfig:
    """What is asked of the model: Cross, and its mean with SelfCross, are in SelfCross's files."""
    return attention.model_copy(update={"method": "selfcross"} if _shares(attention) else {})


def _vocabulary(config: Text2MaskConfig, roots: Mapping[str, Path]) -> Vocabulary:
    """The same for every split: without one said, the names of the source's folder."""
    if config.vocabulary is not None:
        return Vocabulary.load(config.vocabulary)
    source = config.source
    if not isinstance(source, FolderSource):
        reason = f"{source.dataset} needs one: voc, coco or a file"
        raise InputError("text2mask", "vocabulary", reason)
    for given in config.sources():
        if isinstance(given, FolderSource) and FolderList(given, roots[given.dataset]).masked:
            reason = "masks are given: say which label ids the names have, in a JSON file"
            raise InputError("text2mask", "vocabulary", reason)
    return folder_vocabulary(source, roots[source.dataset])


def _data_fingerprint(source: AnySource, root: Path) -> str:
    """The data's hash: the manifest's digest, or for a downloaded copy that of the list file."""
    manifest = read_manifest(root)
    if manifest:
        return manifest.digest
    return hashlib.blake2b(open_list(source, root).file.read_bytes(), digest_size=8).hexdigest()
