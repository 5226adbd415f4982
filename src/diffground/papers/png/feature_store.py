"""The cache of what the frozen model makes of narratives, as files, and reading it.

A folder holds one split as one frozen model sees it; its name has all that the numbers depend on::

    <root>/<split>-<key>/latents-00000.safetensors   "<image id>" (4, h, w)
                         phrases-00000.safetensors   "<sample id>.context" (K, C_t), ".valid" (K,)
                                                     and, for SDXL, ".pooled" (P,)

It is a store (:mod:`diffground.store.items`), filled by
:mod:`diffground.papers.png.feature_extraction`: ``recipe.json`` says what the name was made of, the
notes which file holds what, what was skipped, and what the images were. Narratives that share an
image share its latents.

``B`` narratives · ``K`` phrases · ``C_t`` text channels · ``P`` pooled channels · ``h, w`` latents
"""

from __future__ import annotations

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import torch
from pydantic import PositiveInt
from safetensors import safe_open
from torch import Tensor

from diffground.backbone.captions import LongCaptions
from diffground.config import Config
from diffground.data.png_benchmark import PngSample
from diffground.errors import InputError, Problem
from diffground.io.notes import FileNote, is_unchanged
from diffground.papers.png.config import Precision
from diffground.store.manifest import config_hash, is_valid
from diffground.store.reports import Note, is_intact, read_notes

log = logging.getLogger(__name__)

DTYPES: dict[Precision, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}
REMEDY = "run `kedro run --pipelines feature_extraction` with the same parameters"


@dataclass(frozen=True)
class FrozenInputs:
    """What a narrative gives the UNet, or with a leading ``B`` a batch of them."""

    latents: Tensor  # (4, h, w): the posterior's mean, scaled for the UNet, without noise
    context: Tensor  # (K, C_t): phrase embeddings
    valid: Tensor  # bool (K,): False where padded, and for what the text encoder did not see
    pooled: Tensor | None = None  # (P,): SDXL's pooled text

    def to(
        self,
        device: torch.device | str,
        dtype: torch.dtype | None = None,
        non_blocking: bool = False,
    ) -> FrozenInputs:
        """On ``device``, and its numbers in ``dtype`` if one is given."""

        def moved(tensor: Tensor) -> Tensor:
            return tensor.to(device, dtype or tensor.dtype, non_blocking=non_blocking)

        return FrozenInputs(
            latents=moved(self.latents),
            context=moved(self.context),
            valid=self.valid.to(device, non_blocking=non_blocking),
            pooled=None if self.pooled is None else moved(self.pooled),
        )

    def pin_memory(self) -> FrozenInputs:
        """In memory that a GPU reads by itself."""
        there = {name: held.pin_memory() for name, held in vars(self).items() if held is not None}
        return replace(self, **there)

    def unprompted(self) -> FrozenInputs:
        """With zeros where the text was, SDXL's pooled text too."""
        pooled = None if self.pooled is None else torch.zeros_like(self.pooled)
        return replace(self, context=torch.zeros_like(self.context), pooled=pooled)


class FeatureKey(Config):
    """All that a split's features depend on, but for the images' bytes: the store notes these."""

    code: dict[str, int]  # see diffground.provenance
    backbone: str  # the model folder's fingerprint
    backbone_precision: str  # float32, bfloat16 or float16: what it computes in
    coco: str  # the data's fingerprint
    split: str
    image_size: PositiveInt  # pixels of the square that images are resized to
    max_phrases: PositiveInt | None  # of a narrative; None = all
    long_captions: LongCaptions
    precision: Precision  # what the features are kept in

    def folder(self, root: Path) -> Path:
        """Where these features lie under ``root``."""
        return root / f"{self.split}-{config_hash(self)[:12]}"


class FeatureStore:
    """A finished folder of features, read at random, one narrative at a time.

    It may be copied into a loader's workers: each process opens the files that it reads.
    """

    def __init__(self, folder: Path, notes: Mapping[str, Note]) -> None:
        """``notes`` are of a folder that :meth:`open` found to be whole."""
        self.folder = folder
        self._images: dict[str, FileNote | None] = {}
        self._files: dict[str, dict[str, str]] = {"latents": {}, "phrases": {}}
        self._problems: dict[str, dict[str, Problem]] = {"latents": {}, "phrases": {}}
        for note in notes.values():
            kind = note.item.partition("-")[0]
            (file,) = note.files
            self._files[kind] |= dict.fromkeys(note.about["keys"], file)
            self._problems[kind] |= {row["item"]: Problem(**row) for row in note.about["problems"]}
            self._images |= note.sources
        self._open: dict[str, tuple[Any, frozenset[str]]] = {}
        self._process = os.getpid()

    @classmethod
    def open(cls, root: Path, key: FeatureKey) -> FeatureStore | None:
        """The features of ``key`` under ``root``; None if they are not there, or not whole.

        The files' bytes are compared with their hashes, once per process.
        """
        folder = key.folder(root)
        if not is_valid(folder):
            return None
        notes = read_notes(folder)
        damaged = [note.item for note in notes.values() if not is_intact(folder, note)]
        for item in damaged:
            log.warning("%s: %s was damaged since it was written; %s", folder, item, REMEDY)
        return None if damaged else cls(folder, notes)

    def problem_of(self, sample: PngSample) -> Problem | None:
        """Why a narrative was left out; None if it has features, or was not asked for."""
        for kind, key in (("phrases", sample.id), ("latents", image_key(sample))):
            if found := self._problems[kind].get(key):
                return replace(found, item=sample.id)
        return None

    def covers(self, samples: Iterable[PngSample]) -> bool:
        """Whether each of ``samples`` was extracted, or skipped, of the image that is there now."""
        known = {kind: {*self._files[kind], *self._problems[kind]} for kind in self._files}
        images: dict[str, Path] = {}
        for sample in samples:
            key = image_key(sample)
            if sample.id not in known["phrases"] or key not in known["latents"]:
                return False
            images[key] = sample.image_path
        return all(is_unchanged(path, self._images.get(key)) for key, path in images.items())

    def get(self, sample: PngSample) -> FrozenInputs:
        """A narrative's features, on the CPU.

        Raises:
            InputError: it was skipped, is not in this store, or has another number of phrases here.
        """
        if problem := self.problem_of(sample):
            reason = f"skipped by the extraction: {problem.file}: {problem.reason}"
            raise InputError(self.folder, f"narrative {sample.id}", reason)
        latents, _ = self._opened("latents", image_key(sample), sample)
        phrases, names = self._opened("phrases", sample.id, sample)
        context = phrases.get_tensor(f"{sample.id}.context")
        if len(context) != len(sample.phrases):
            raise InputError(
                self.folder,
                f"narrative {sample.id}",
                f"cached with {len(context)} phrases, read with {len(sample.phrases)}: were they "
                "read with another max_phrases?",
            )
        pooled = f"{sample.id}.pooled"
        return FrozenInputs(
            latents=latents.get_tensor(image_key(sample)),
            context=context,
            valid=phrases.get_tensor(f"{sample.id}.valid"),
            pooled=phrases.get_tensor(pooled) if pooled in names else None,
        )

    def _opened(self, kind: str, key: str, sample: PngSample) -> tuple[Any, frozenset[str]]:
        """The opened file that holds ``key``, and the names in it."""
        name = self._files[kind].get(key)
        if name is None:
            raise InputError(
                self.folder, f"narrative {sample.id}", f"not among the cached features: {REMEDY}"
            )
        if self._process != os.getpid():  # a forked worker: the parent's handles are not its own
            self._open, self._process = {}, os.getpid()
        if name not in self._open:
            file = safe_open(self.folder / name, framework="pt")
            self._open[name] = file, frozenset(file.keys())
        return self._open[name]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


def image_key(sample: PngSample) -> str:
    """The latents' key of a narrative's image."""
    return str(sample.image_id)
