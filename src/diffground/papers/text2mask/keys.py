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
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch

from diffground.attention import aggregate, baselines
from diffground.attention.aggregate import ClassMaps, image_scores, initial_labels
from diffground.attention.config import AggregationConfig
from diffground.backbone import frozen
from diffground.backbone.folder import ModelFolder
from diffground.backbone.frozen import FrozenDiffusion
from diffground.data.image_lists import FolderList, FolderSource, open_list
from diffground.data.labelled_images import (
    LabelledImage,
    folder_vocabulary,
    read_samples,
)
from diffground.data.vocabulary import BACKGROUND, Vocabulary
from diffground.errors import InputError, ProblemReport
from diffground.masks.mask_files import MaskWork, code_of_masks
from diffground.papers.text2mask.config import (
    AnySource,
    Text2MaskConfig,
    Text2MaskFolders,
    TextToMaskConfig,
)
from diffground.papers.text2mask.map_files import read_maps
from diffground.provenance import Made, code_of
from diffground.store.manifest import config_hash, read_manifest
from diffground.training.processes import chosen_device

log = logging.getLogger(__name__)


class Frozen:
    """The frozen model's folder: its hash, and the model itself once it is asked for."""

    def __init__(self, folder: Path, config: Text2MaskConfig) -> None:
        self._folder, self._config = folder, config

    @cached_property
    def fingerprint(self) -> str:
        """Of the files, without loading them; a second for a full-size model."""
        return ModelFolder.check(self._folder).fingerprint()

    @cached_property
    def model(self) -> FrozenDiffusion:
        """On the device and in the precision asked for."""
        dtype: torch.dtype = getattr(torch, self._config.precision)
        device = chosen_device(self._config.device)
        return FrozenDiffusion.from_pretrained(self._folder, device=device, dtype=dtype)


@dataclass(frozen=True)
class Split:
    """One split of a dataset under one configuration: its samples, and where their files lie."""

    name: str
    config: Text2MaskConfig
    source: AnySource
    words: Vocabulary
    samples: tuple[LabelledImage, ...]
    report: ProblemReport  # lines that could not be used
    maps_recipe: dict[str, Any]  # all that maps depend on
    masks_recipe: dict[str, Any]  # and what masks depend on besides the CRF
    masks_key: dict[str, Any]  # and with it
    maps: Path
    masks: Path

    @classmethod
    def of(
        cls,
        config: Text2MaskConfig,
        folders: Text2MaskFolders,
        source: AnySource,
        fingerprint: str,
    ) -> Self:
        """Reads the list of a split; ``fingerprint`` is the frozen model's.

        Raises:
            InputError: the list is missing, the vocabulary is, or no sample can be used.
        """
        root = folders.root(source)
        words = _vocabulary(config, folders)
        attention = config.attention.for_dataset(words.dataset or source.dataset)
        config = config.model_copy(update={"attention": attention})
        report = ProblemReport()
        samples = tuple(read_samples(source, root, words, report, limit=config.limit))
        for problem in report.problems:
            log.warning("%s is skipped: %s: %s", problem.item, problem.file, problem.reason)
        if not samples:
            raise InputError(root, "samples", f"none of {report.total} lines can be used")
        recipe = {
            "code": code_of(frozen, aggregate, *([baselines] if _is_baseline(config) else [])),
            "model": fingerprint,
            "precision": config.precision,
            "seed": config.seed,
            "source": source.model_dump(mode="json"),
            "data": _data_fingerprint(source, root),
            "words": words.model_dump(mode="json", exclude={"about", "dataset"}),
            "query": config.query.model_dump(mode="json"),
            "attention": _asked_of_the_model(config.attention),
        }
        reading = {
            name: getattr(config.attention, name)
            for name in ("method", "background_threshold", "background_power")
        }
        masks = {"maps": recipe, "reading": reading}
        files = config.masks.model_dump(mode="json", exclude={"crf": {"device"}})
        masks_key = masks | {"files": files, "code": code_of_masks()}
        name = source.dataset if isinstance(source, FolderSource) else source.split
        return cls(
            name=name,
            config=config,
            source=source,
            words=words,
            samples=samples,
            report=report,
            maps_recipe=recipe,
            masks_recipe=masks,
            masks_key=masks_key,
            maps=folders.maps / f"{name}-{config_hash(recipe)[:12]}",
            masks=folders.masks / f"{name}-{config_hash(masks_key)[:12]}",
        )

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
        """The name of label 0, the background, 1, ...; labels without a class are numbered."""
        known = self.words.classes
        return (BACKGROUND, *(known[i].name if i in known else f"label {i}" for i in self._labels))

    @property
    def _labels(self) -> range:
        return range(1, max(self.words.classes) + 1)

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


def _shares(attention: AggregationConfig) -> bool:
    """Whether the maps are read from the files of SelfCross.

    Not where the masks of several noises are averaged: Cross has other masks, draw by draw.
    """
    return attention.method in {"cross", "cross+selfcross"} and not attention.averages_masks


def _shared(attention: AggregationConfig) -> AggregationConfig:
    """What is asked of the model: Cross, and its mean with SelfCross, are in SelfCross's files."""
    return attention.model_copy(update={"method": "selfcross"} if _shares(attention) else {})


def _is_baseline(config: Text2MaskConfig) -> bool:
    return config.attention.method in {"cbp", "daam", "daam_trajectory"}


def _asked_of_the_model(attention: AggregationConfig) -> dict[str, Any]:
    """The settings that maps depend on."""
    aside = {"background_threshold", "background_power", "noise_batch"}
    return _shared(attention).model_dump(mode="json", exclude=aside)


def _vocabulary(config: Text2MaskConfig, folders: Text2MaskFolders) -> Vocabulary:
    """The same for every split: without one said, the names of the source's folder."""
    if config.vocabulary is not None:
        return Vocabulary.load(config.vocabulary)
    source = config.source
    if not isinstance(source, FolderSource):
        reason = f"{source.dataset} needs one: voc, coco or a file"
        raise InputError("text2mask", "vocabulary", reason)
    for given in config.sources():
        if isinstance(given, FolderSource) and FolderList(given, folders.root(given)).masked:
            reason = "masks are given: say which label ids the names have, in a JSON file"
            raise InputError("text2mask", "vocabulary", reason)
    return folder_vocabulary(source, folders.root(source))


def _data_fingerprint(source: AnySource, root: Path) -> str:
    """The data's hash: the manifest's digest, or for a downloaded copy that of the list file."""
    manifest = read_manifest(root)
    if manifest:
        return manifest.digest
    return hashlib.blake2b(open_list(source, root).file.read_bytes(), digest_size=8).hexdigest()
