"""The cache of what the frozen model makes of narratives, as files, and reading it.

A folder holds one split as one frozen model sees it; its name has all that the numbers depend on::

    <root>/<split>-<key>/latents-00000.safetensors   "<image id>" (4, h, w)
                         phrases-00000.safetensors   "<sample id>.context" (K, C_t), ".valid" (K,)
                                                     and, for SDXL, ".pooled" (P,)
                         <shard>.sha256              the shard's checksum
                         recipe.json                 what the name was made of
                         index.json                  which shard holds what, what was skipped, and
                                                     the images' sizes, dates and hashes
                         manifest.json               written last: its presence means whole

Narratives that share an image share its latents. The folder is filled by
:mod:`diffground.papers.png.feature_extraction`.

``B`` narratives · ``K`` phrases · ``C_t`` text channels · ``P`` pooled channels · ``h, w`` latents
"""

from __future__ import annotations

import json
import logging
import os
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import PositiveInt
from safetensors import SafetensorError, safe_open
from torch import Tensor

from diffground.backbone.captions import LongCaptions
from diffground.config import Config
from diffground.data.png_benchmark import PngSample
from diffground.errors import InputError, Problem
from diffground.io.files import is_sound, read_json
from diffground.io.notes import FileNote, is_unchanged
from diffground.papers.png.config import Precision
from diffground.provenance import commit
from diffground.store.manifest import config_hash, is_valid

log = logging.getLogger(__name__)

Kind = Literal["latents", "phrases"]

KINDS: tuple[Kind, ...] = ("phrases", "latents")
DTYPES: dict[Precision, torch.dtype] = {"float16": torch.float16, "float32": torch.float32}
INDEX = "index.json"
REMEDY = "run `kedro run --pipelines feature_extraction` with the same parameters"


@dataclass(frozen=True)
class CachedFeatures:
    """One narrative's features, in the precision they are kept in."""

    latents: Tensor  # (4, h, w): the posterior's mean, scaled for the UNet, without noise
    context: Tensor  # (K, C_t): phrase embeddings
    valid: Tensor  # bool (K,): False for phrases that the text encoder did not see
    pooled: Tensor | None = None  # (P,): SDXL's pooled text


@dataclass(frozen=True)
class FrozenInputs:
    """What a batch gives the UNet: the same with a leading ``B``; ``valid`` False where padded."""

    latents: Tensor  # (B, 4, h, w)
    context: Tensor  # (B, K, C_t)
    valid: Tensor  # bool (B, K)
    pooled: Tensor | None = None  # (B, P)

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


class FeatureKey(Config):
    """All that a split's features depend on, but for the images' bytes: the index notes these."""

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

    It may be copied into a loader's workers: each process opens the shards that it reads.
    """

    def __init__(self, folder: Path, content: Mapping[str, Any]) -> None:
        """``content`` is the index of a folder that :meth:`open` found to be whole."""
        self.folder = folder
        self._images = {key: FileNote(*note) for key, note in content["images"].items()}
        self._shards: dict[Kind, dict[str, int]] = {
            "latents": content["latents"],
            "phrases": content["phrases"],
        }
        #: Narratives without features: sample id -> the kind that failed, and why.
        self.skipped: dict[str, tuple[Kind, Problem]] = {
            item: (kind, Problem(item, **entry))
            for item, (kind, entry) in content["skipped"].items()
        }
        self._open: dict[str, tuple[Any, frozenset[str]]] = {}
        self._process = os.getpid()

    @classmethod
    def open(cls, root: Path, key: FeatureKey) -> FeatureStore | None:
        """The features of ``key`` under ``root``; None if they are not there, or not whole.

        The shards' bytes are compared with their checksums, once per process.
        """
        folder = key.folder(root)
        content = read_json(folder / INDEX)
        if content is None or not is_valid(folder, key) or not is_whole(folder / INDEX):
            return None
        damaged = [path for path in sorted(folder.glob("*.safetensors")) if not is_whole(path)]
        for path in damaged:
            log.warning("%s was damaged since it was written; %s", path, REMEDY)
        return None if damaged else cls(folder, content)

    def covers(self, samples: Iterable[PngSample]) -> bool:
        """Whether each of ``samples`` was extracted, of the image that is there now, or skipped."""
        images: dict[str, Path] = {}
        for sample in samples:
            if sample.id in self.skipped:
                continue
            key = image_key(sample)
            if sample.id not in self._shards["phrases"] or key not in self._shards["latents"]:
                return False
            images[key] = sample.image_path
        return all(is_unchanged(path, self._images.get(key)) for key, path in images.items())

    def get(self, sample: PngSample) -> CachedFeatures:
        """A narrative's features, on the CPU.

        Raises:
            InputError: it was skipped, is not in this store, or has another number of phrases here.
        """
        if sample.id in self.skipped:
            problem = self.skipped[sample.id][1]
            reason = f"skipped by the extraction: {problem.file}: {problem.reason}"
            raise InputError(self.folder, f"narrative {sample.id}", reason)
        latents, _ = self._shard("latents", image_key(sample), sample)
        phrases, names = self._shard("phrases", sample.id, sample)
        context = phrases.get_tensor(f"{sample.id}.context")
        if len(context) != len(sample.phrases):
            raise InputError(
                self.folder,
                f"narrative {sample.id}",
                f"cached with {len(context)} phrases, read with {len(sample.phrases)}: were they "
                "read with another max_phrases?",
            )
        pooled = f"{sample.id}.pooled"
        return CachedFeatures(
            latents=latents.get_tensor(image_key(sample)),
            context=context,
            valid=phrases.get_tensor(f"{sample.id}.valid"),
            pooled=phrases.get_tensor(pooled) if pooled in names else None,
        )

    def _shard(self, kind: Kind, key: str, sample: PngSample) -> tuple[Any, frozenset[str]]:
        """The opened shard that holds ``key``, and the names in it."""
        number = self._shards[kind].get(key)
        if number is None:
            raise InputError(
                self.folder, f"narrative {sample.id}", f"not among the cached features: {REMEDY}"
            )
        if self._process != os.getpid():  # a forked worker: the parent's handles are not its own
            self._open, self._process = {}, os.getpid()
        name = shard_name(kind, number)
        if name not in self._open:
            shard = safe_open(self.folder / name, framework="pt")
            self._open[name] = shard, frozenset(shard.keys())
        return self._open[name]

    def __getstate__(self) -> dict[str, Any]:
        return self.__dict__ | {"_open": {}}


def shard_name(kind: Kind, number: int) -> str:
    """The file of a shard."""
    return f"{kind}-{number:05d}.safetensors"


def image_key(sample: PngSample) -> str:
    """The latents' key of a narrative's image."""
    return str(sample.image_id)


@dataclass(frozen=True)
class Block:
    """The narratives of one pair of shards, and those of their images that no block before has."""

    number: int
    narratives: dict[str, PngSample]  # by sample id
    images: dict[str, PngSample]  # image key -> the first narrative with that image

    def items(self, kind: Kind) -> dict[str, PngSample]:
        """What the shard of ``kind`` has an entry for."""
        return self.images if kind == "latents" else self.narratives

    def plan(self, kind: Kind) -> str:
        """A hash of what the shard should hold."""
        return config_hash({"kind": kind, "keys": list(self.items(kind))})


def plan_blocks(samples: Sequence[PngSample], size: int) -> list[Block]:
    """``samples`` in order, ``size`` narratives a block."""
    blocks: list[Block] = []
    seen: set[str] = set()
    for start in range(0, len(samples), size):
        block = Block(len(blocks), {}, {})
        for sample in samples[start : start + size]:
            block.narratives[sample.id] = sample
            if image_key(sample) not in seen:
                seen.add(image_key(sample))
                block.images[image_key(sample)] = sample
        blocks.append(block)
    return blocks


@dataclass(frozen=True)
class ShardInfo:
    """What a written shard says of itself."""

    plan: str  # hash of the keys that it was asked for
    keys: frozenset[str]  # what it holds, parts cut off
    problems: tuple[Problem, ...]  # of the keys that it lacks
    images: dict[str, FileNote]  # what latents were made of, by key
    commit: str  # by which it was made


def shard_metadata(
    plan: str, problems: Sequence[Problem], images: Mapping[str, FileNote]
) -> dict[str, str]:
    """The shard's header, as :func:`read_shard_info` reads it."""
    content = {
        "plan": plan,
        "problems": [vars(problem) for problem in problems],
        "images": dict(sorted(images.items())),
        "commit": commit(),
    }
    return {"shard": json.dumps(content)}  # one entry: several would be written in random order


def read_shard_info(path: Path) -> ShardInfo | None:
    """A shard's header; None if there is no shard, or one that is not whole or not of ours."""
    try:
        if not is_whole(path):
            return None
        with safe_open(path, framework="pt") as shard:
            content, names = json.loads((shard.metadata() or {})["shard"]), list(shard.keys())
        problems = tuple(Problem(**row) for row in content["problems"])
        keys = frozenset(name.partition(".")[0] for name in names)
        images = {key: FileNote(*note) for key, note in content["images"].items()}
        return ShardInfo(content["plan"], keys, problems, images, content["commit"])
    except (FileNotFoundError, SafetensorError, KeyError, TypeError, ValueError):
        return None


def is_whole(path: Path) -> bool:
    """Whether a file has the bytes that it was written with, as far as its seal can tell."""
    try:
        about = path.stat()
    except FileNotFoundError:
        return False
    return _is_sound(path, about.st_size, about.st_mtime_ns)


@lru_cache(maxsize=1 << 12)
def _is_sound(path: Path, size: int, changed: int) -> bool:
    """Shards are gigabytes: each state of one is read once per process."""
    return is_sound(path) is not False


def index_content(
    latents: Mapping[int, ShardInfo], phrases: Mapping[int, ShardInfo], samples: Sequence[PngSample]
) -> dict[str, Any]:
    """``index.json`` of finished shards by number: key -> shard, and the skipped of ``samples``."""
    kinds: dict[Kind, Mapping[int, ShardInfo]] = {"latents": latents, "phrases": phrases}
    content: dict[str, Any] = {
        kind: {key: number for number, info in infos.items() for key in sorted(info.keys)}
        for kind, infos in kinds.items()
    }
    problems: dict[str, dict[str, Problem]] = {
        kind: {problem.item: problem for info in infos.values() for problem in info.problems}
        for kind, infos in kinds.items()
    }
    content["images"] = {
        key: note for info in latents.values() for key, note in info.images.items()
    }
    content["skipped"] = {
        sample.id: (
            kind,
            {"file": found.file, "field": found.field, "reason": found.reason},
        )
        for sample in samples
        for kind, key in (("phrases", sample.id), ("latents", image_key(sample)))
        if (found := problems[kind].get(key))
    }
    return content
