"""Synthetic samples as files: what a picture, its masks and its features are had from again.

A set is a store (:mod:`diffground.store.items`), a file for every batch of generation::

    <set>-<key>/part-00000.safetensors   "<id>.latent" float16 (4, h, w): what the UNet read last
                                         "<id>.picture" uint8 (4, h, w): the picture's latents
                                         "<id>.thumbnail" uint8 (bytes,): a JPEG, of all attempts
                                         and in the header a `Record` of every attempt

At the sizes of Stable Diffusion 1.5 a sample takes about 55 kB: 32 and 16 kB of latents, the rest
is the thumbnail and the masks' run lengths. The picture is what the VAE makes of its latents in 8
bits, one picture at a time; the detector saw that very picture. Features of the UNet are computed
from the latent by one pass (:mod:`.features`).
"""

from __future__ import annotations

import json
import zlib
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Literal, Self, overload

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import TypeAdapter
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffground.config import Config
from diffground.errors import InputError
from diffground.io.files import read_json, write_whole
from diffground.masks.phrase_masks import read_mask
from diffground.papers.grounded.data_config import ChoiceConfig, GenerationConfig
from diffground.provenance import RECIPE, Recipe
from diffground.store.manifest import config_hash, is_valid
from diffground.store.reports import is_intact, read_notes

REMEDY: Final = "run `kedro run --pipelines grounding_data` with the same parameters"
_ABOUT: Final = "diffground"

#: Why an attempt is no sample: its latents are not finite, the detector misses a class of its, is
#: less sure of one than is asked, or the picture is not among the best.
Reason = Literal["broken", "missing", "low score", "low quality"]


class Instance(Config):
    """What the detector found: a class, its score in [0, 1], and the mask as COCO's run lengths."""

    name: str
    score: float
    segmentation: dict[str, Any]


class Record(Config):
    """An attempt and what became of it."""

    id: str
    prompt: str
    names: tuple[str, ...]
    absent: tuple[str, ...]
    seed: int
    kept: bool  # whether its latents are there
    reason: Reason | None  # why not
    size: tuple[int, int]  # (H, W) of the picture
    timestep: float  # of the last pass
    guided: bool  # whether that had an unconditional half
    ranges: tuple[tuple[float, float], ...]  # lowest and highest value of the picture's channels
    instances: tuple[Instance, ...]  # of names and absent, by falling score

    def best(self, name: str) -> float:
        """The score of the best instance of a class, 0 without one."""
        return max((each.score for each in self.instances if each.name == name), default=0.0)

    def sure(self) -> float:
        """The score that every class of the prompt has: the least of the best."""
        return min(self.best(name) for name in self.names)

    def true(self, choice: ChoiceConfig) -> tuple[Instance, ...]:
        """The instances of the prompt's classes that masks are of, by falling score."""
        taken: list[Instance] = []
        for each in self.instances:
            again = choice.instances == "first" and any(each.name == one.name for one in taken)
            if each.name in self.names and each.score >= choice.least_score and not again:
                taken.append(each)
        return tuple(taken)


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture's making, and its true masks.

    Attributes:
        names: N classes that are asked for, absent ones last.
        latent: (4, h, w) float16, what the UNet read in the last pass, exactly.
        picture: (4, h, w) float32, what the VAE makes the picture of.
        masks: bool (N, H, W), of the off-the-shelf segmenter; empty for absent classes.
    """

    id: str
    prompt: str
    names: tuple[str, ...]
    seed: int
    latent: Tensor
    timestep: float
    guided: bool
    picture: Tensor
    masks: NDArray[np.bool_]


def in_8_bits(latents: Tensor) -> tuple[Tensor, tuple[tuple[float, float], ...]]:
    """Latents (4, h, w) as uint8, and each channel's range; :func:`from_8_bits` undoes it."""
    low, high = latents.float().cpu().amin((1, 2)), latents.float().cpu().amax((1, 2))
    ranges = tuple(zip(low.tolist(), high.tolist(), strict=True))
    step = ((high - low) / 255).clamp_min(1e-12)[:, None, None]
    levels = (latents.float().cpu() - low[:, None, None]) / step
    return levels.round().to(torch.uint8), ranges


def from_8_bits(levels: Tensor, ranges: Iterable[tuple[float, float]]) -> Tensor:
    """Latents (4, h, w) float32, within half a step (1/510 of a channel's range) of what was."""
    low, high = torch.tensor(list(ranges)).T[:, :, None, None]
    return low + levels.float() * ((high - low) / 255)


def write_part(path: Path, records: Sequence[Record], tensors: Mapping[str, Tensor]) -> None:
    """Writes a file of a set."""
    content = json.dumps([record.model_dump(mode="json") for record in records])
    # One entry: several are written in an order that changes from run to run.
    made = {name: tensor.contiguous() for name, tensor in tensors.items()}
    write_whole(path, lambda part: save_file(made, part, metadata={_ABOUT: content}))


class Records(Sequence[Record]):
    """Records in order, each read when it is asked for: packed, they take less memory.

    Attributes:
        ids: of all of them.
    """

    def __init__(self, packed: Mapping[str, bytes]) -> None:
        self.ids, self._packed = tuple(packed), packed

    def __len__(self) -> int:
        return len(self.ids)

    @overload
    def __getitem__(self, index: int) -> Record: ...
    @overload
    def __getitem__(self, index: slice) -> Records: ...
    def __getitem__(self, index: int | slice) -> Record | Records:
        if isinstance(index, slice):
            return self.of(self.ids[index])
        return Record.model_validate_json(zlib.decompress(self._packed[self.ids[index]]))

    def of(self, ids: Iterable[str]) -> Records:
        """Those of some ids, in their order."""
        return Records({one: self._packed[one] for one in ids})


class SyntheticSet:
    """A finished set, read at random; only the records are held in memory.

    Attributes:
        records: of all attempts, by id.
    """

    def __init__(self, folder: Path, parts: Iterable[Path]) -> None:
        self.folder = folder
        self._paths: dict[str, Path] = {}
        packed: dict[str, bytes] = {}
        for path in parts:
            for record in _records(path):
                self._paths[record.id] = path
                packed[record.id] = zlib.compress(record.model_dump_json().encode())
        self.records = Records(dict(sorted(packed.items())))

    @classmethod
    def open(cls, folder: Path) -> Self:
        """Reads the records of a set; InputError for one that is not whole, or damaged."""
        if not is_valid(folder):
            raise InputError(folder, "samples", f"they are not there, or not all of them: {REMEDY}")
        parts = []
        for note in read_notes(folder).values():
            (name,) = note.files
            if not is_intact(folder, note):
                raise InputError(folder / name, "samples", f"the file was damaged: {REMEDY}")
            parts.append(folder / name)
        return cls(folder, parts)

    @property
    def parts(self) -> list[Path]:
        """The files."""
        return sorted({*self._paths.values()})

    def part_of(self, record: Record) -> Path:
        """The file that a record is in."""
        return self._paths[record.id]

    @cached_property
    def recipe(self) -> dict[str, Any]:
        """What the samples were made of."""
        return read_json(self.folder / RECIPE) or {}

    @property
    def generation(self) -> GenerationConfig:
        """How the pictures were made."""
        return GenerationConfig.model_validate(self.recipe["generation"])

    def check_model(self, fingerprint: str, what: str = "the model") -> None:
        """Raises InputError if ``what`` is not the frozen model that made the samples, or of it."""
        if self.recipe.get("model") != fingerprint:
            reason = f"{what} is of another diffusion model than the samples: make them with it"
            raise InputError(self.folder, "model", reason)

    def thumbnail(self, record: Record) -> bytes:
        """A small JPEG of an attempt that was not broken."""
        return self._tensor(record, "thumbnail").numpy().tobytes()

    def size(self, record: Record) -> int:
        """Bytes that a kept attempt takes."""
        parts = [self._tensor(record, what) for what in ("latent", "picture", "thumbnail")]
        return sum(part.nbytes for part in parts) + len(record.model_dump_json())

    def chosen(
        self, choice: ChoiceConfig, quality: Mapping[str, float] | None = None
    ) -> tuple[Samples, dict[str, Reason]]:
        """The samples that are taken, by id, and why each other attempt is none.

        Args:
            quality: of the samples' pictures by id, see :mod:`.scoring`; without it the choice may
                not ask for the best of them.
        """
        refused: dict[str, Reason] = {}
        taken: list[str] = []
        for record in self.records:
            if not record.kept:
                assert record.reason is not None
                refused[record.id] = record.reason
            elif record.sure() < choice.least_score:
                refused[record.id] = "low score"
            else:
                taken.append(record.id)
        if choice.top < 1:
            taken, others = _best(taken, choice.top, quality)
            refused |= dict.fromkeys(others, "low quality")
        return Samples(self, self.records.of(taken), choice), refused

    def _sample(self, record: Record, choice: ChoiceConfig) -> Sample:
        seen = {each.name for each in record.instances if each.score >= choice.least_score}
        # The detector says that it is there after all: nobody knows.
        absent = tuple(name for name in record.absent if name not in seen)
        masks = np.zeros((len(record.names) + len(absent), *record.size), bool)
        for each in record.true(choice):
            masks[record.names.index(each.name)] |= read_mask(each.segmentation)
        return Sample(
            id=record.id,
            prompt=record.prompt,
            names=(*record.names, *absent),
            seed=record.seed,
            latent=self._tensor(record, "latent"),
            timestep=record.timestep,
            guided=record.guided,
            picture=from_8_bits(self._tensor(record, "picture"), record.ranges),
            masks=masks,
        )

    def _tensor(self, record: Record, what: str) -> Tensor:
        path = self._paths[record.id]
        try:
            with safe_open(path, framework="pt") as file:
                tensor: Tensor = file.get_tensor(f"{record.id}.{what}")
        except (OSError, SafetensorError) as error:
            raise InputError(path, record.id, f"cannot be read ({error}): {REMEDY}") from error
        return tensor


class Samples(Sequence[Sample]):
    """What a choice takes of a set; each sample is read when it is asked for."""

    def __init__(self, source: SyntheticSet, records: Records, choice: ChoiceConfig):
        self.source, self.records, self.choice = source, records, choice

    @cached_property
    def recipe(self) -> Recipe:
        """All that they depend on: how they were made, which they are, and what is true of them."""
        asked = [[r.id, r.prompt, r.seed, *r.names, "absent", *r.absent] for r in self.records]
        return {
            "set": self.source.recipe,
            "choice": self.choice.key_content(),
            "records": config_hash({"asked": asked}),
        }

    def __len__(self) -> int:
        return len(self.records)

    @overload
    def __getitem__(self, index: int) -> Sample: ...
    @overload
    def __getitem__(self, index: slice) -> Samples: ...
    def __getitem__(self, index: int | slice) -> Sample | Samples:
        if isinstance(index, slice):
            return Samples(self.source, self.records[index], self.choice)
        return self.source._sample(self.records[index], self.choice)

    def __iter__(self) -> Iterator[Sample]:
        return (self[index] for index in range(len(self)))


def _best(
    ids: list[str], part: float, quality: Mapping[str, float] | None
) -> tuple[list[str], list[str]]:
    """Which samples have the best pictures, in their order, and which others there are."""
    if quality is None or any(one not in quality for one in ids):
        raise InputError("grounding_data", "choice.top", "the pictures have not been scored yet")
    best = {*sorted(ids, key=lambda one: -quality[one])[: round(part * len(ids))]}
    return [one for one in ids if one in best], [one for one in ids if one not in best]


def _records(path: Path) -> list[Record]:
    try:
        with safe_open(path, framework="pt") as file:
            content = json.loads((file.metadata() or {})[_ABOUT])
        return TypeAdapter(list[Record]).validate_python(content)
    except (OSError, SafetensorError, LookupError, ValueError) as error:
        raise InputError(path, "samples", f"cannot be read ({error}): {REMEDY}") from error
