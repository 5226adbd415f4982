"""Making the synthetic sets: pictures by the frozen model, masks by an off-the-shelf segmenter.

Every picture has a seed of its own. Pictures are made in batches, always the same ones, and a batch
is a file: a run that is killed loses the batch in its hands, and makes nothing that is kept again.
"""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Sequence
from dataclasses import asdict, dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import diffusers
import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffground.backbone import frozen as of_frozen
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.on_demand import Frozen
from diffground.backbone.sampler import Step, sample
from diffground.backbone.text import PromptEncoding
from diffground.errors import InputError
from diffground.foundation.scenes import to_image
from diffground.masks.phrase_masks import describe_mask
from diffground.papers.grounded.classes import detector_labels
from diffground.papers.grounded.data_config import GenerationConfig, GroundingDataConfig
from diffground.papers.grounded.prompts import Attempt
from diffground.papers.grounded.samples import (
    Instance,
    Reason,
    Record,
    from_8_bits,
    in_8_bits,
    write_part,
)
from diffground.provenance import Recipe
from diffground.segmenters.instance import Detections, InstanceSegmenter, labels_of
from diffground.store.items import Item, Summary
from diffground.store.manifest import config_hash, fingerprint
from diffground.store.reports import About
from diffground.training.processes import chosen_device
from diffground.training.sharing import fill_together

# Raised when the same prompts, models and settings give other samples.
CODE_VERSION: Final = 1

_THUMBNAIL = 128  # pixels of the longer side
_QUALITY = 80  # of its JPEG


@dataclass(frozen=True)
class _Part:
    """The attempts of one batch, made."""

    records: list[Record]
    tensors: dict[str, Tensor]


def make_set(
    name: str,
    attempts: Sequence[Attempt],
    frozen: Frozen,
    segmenter: Path,
    root: Path,
    config: GroundingDataConfig,
) -> Summary:
    """Makes what is missing of a set below ``root``; its folder is the summary's.

    Raises:
        InputError: a class that the segmenter does not know, a prompt without the word of its
            class, a scheduler that does not go with the model's folder.
    """
    for attempt in attempts:
        attempt.check()
    asked = dict.fromkeys(n for a in attempts for n in (*a.names, *a.absent))
    labels = detector_labels(
        tuple(asked), labels_of(segmenter), config.detector.names, segmenter / "config.json"
    )
    recipe = set_recipe(name, frozen, segmenter, config)
    folder = root / f"{name}-{config_hash(recipe)[:12]}"
    batch = config.generation.batch
    parts = {
        f"part-{index // batch:05d}": list(attempts[index : index + batch])
        for index in range(0, len(attempts), batch)
    }
    maker = _Maker(frozen, segmenter, labels, config)

    def make(part: str) -> _Part:
        return maker.part(parts[part])

    def finish(part: str, made: _Part) -> About:
        write_part(folder / f"{part}.safetensors", made.records, made.tensors)
        outcomes = Counter(record.reason or "kept" for record in made.records)
        return {"attempts": len(made.records), "outcomes": dict(outcomes)}

    items = [
        Item(part, (f"{part}.safetensors",), [asdict(attempt) for attempt in of])
        for part, of in parts.items()
    ]
    return fill_together(
        folder, recipe, items, make, finish,
        what="batches of", work=config.work, ready=maker.load,
    )  # fmt: skip


def set_recipe(name: str, frozen: Frozen, segmenter: Path, config: GroundingDataConfig) -> Recipe:
    """All that a set's samples depend on, but for how many there are: a longer one goes on."""
    asked = config.sets[name]
    return {
        "code": {"generation": CODE_VERSION, "frozen": of_frozen.CODE_VERSION},
        "model": frozen.fingerprint,
        "precision": config.precision,
        "segmenter": fingerprint(segmenter),
        "prompts": {
            **config.prompts.key_content(),
            "classes": asked.classes,
            "draw": asked.draw,
            "seed": config.seed,
        },
        "generation": config.generation.key_content(),
        "detector": config.detector.key_content(),
    }


class _Maker:
    """Both networks, loaded when there is something to make."""

    def __init__(
        self,
        frozen: Frozen,
        segmenter: Path,
        labels: dict[str, frozenset[str]],
        config: GroundingDataConfig,
    ) -> None:
        self.frozen, self.folder, self.labels, self.config = frozen, segmenter, labels, config

    @cached_property
    def segmenter(self) -> InstanceSegmenter:
        device = chosen_device(self.config.device)
        return InstanceSegmenter.from_pretrained(self.folder, device=device)

    def load(self) -> None:
        """Loads them, and fails if the scheduler does not fit."""
        chosen_scheduler(self.frozen.model, self.config.generation)
        _ = self.segmenter

    def part(self, attempts: Sequence[Attempt]) -> _Part:
        """One batch: generated, and looked at."""
        model, config = self.frozen.model, self.config
        last = generated(model, attempts, config.generation)
        made = _Part([], {})
        for index, attempt in enumerate(attempts):
            levels, ranges = in_8_bits(last.latents[index])
            reason: Reason | None = None
            instances: tuple[Instance, ...] = ()
            size = (0, 0)
            # Half precision may overflow; nothing can be seen of such a picture.
            if not bool(last.latents[index].isfinite().all()):
                reason, ranges = "broken", ()
            else:
                image = shown(model, from_8_bits(levels, ranges))
                size = (image.shape[0], image.shape[1])
                instances = self._found(image, attempt)
                known = {each.name for each in instances}
                reason = None if known.issuperset(attempt.names) else "missing"
                made.tensors[f"{attempt.id}.thumbnail"] = _thumbnail(image)
            record = Record(
                **asdict(attempt), kept=reason is None, reason=reason, size=size,
                timestep=float(last.timestep), guided=config.generation.guidance > 1,
                ranges=ranges, instances=instances,
            )  # fmt: skip
            made.records.append(record)
            if record.kept:
                latent = last.entering[index].to("cpu", torch.float16)
                made.tensors[f"{attempt.id}.latent"] = latent
                made.tensors[f"{attempt.id}.picture"] = levels
        return made

    def _found(self, image: NDArray[np.uint8], attempt: Attempt) -> tuple[Instance, ...]:
        """The instances of the classes that are asked for, by falling score."""
        floor = self.config.detector.floor
        found: Detections = self.segmenter([image], threshold=floor)[0]
        return tuple(
            Instance(name=name, score=float(score), segmentation=_run_lengths(mask))
            for mask, label, score in zip(found.masks, found.labels, found.scores, strict=True)
            for name in (*attempt.names, *attempt.absent)
            if label in self.labels[name] and mask.any()
        )


def generated(
    model: FrozenDiffusion, attempts: Sequence[Attempt], config: GenerationConfig
) -> Step:
    """The last step of a batch of attempts."""
    prompts = [model.encode_prompts([attempt.prompt]) for attempt in attempts]
    steps = sample(
        model,
        PromptEncoding.joined(prompts),
        [attempt.seed for attempt in attempts],
        steps=config.steps,
        guidance=config.guidance,
        size=config.size,
        scheduler=chosen_scheduler(model, config),
        retraceable=True,
    )
    for step in steps:
        last = step
    return last


def chosen_scheduler(model: FrozenDiffusion, config: GenerationConfig) -> Any:
    """The scheduler asked for, with the configuration of the folder's; None for the folder's own.

    Raises:
        InputError: no scheduler of diffusers that this configuration goes with.
    """
    if config.scheduler is None:
        return None
    known = {kind.__name__ for kind in model.scheduler.compatibles}
    if config.scheduler not in known:
        reason = (
            f"{config.scheduler} does not go with the folder's {type(model.scheduler).__name__}: "
            f"leave it null, or take one of {', '.join(sorted(known))}"
        )
        raise InputError(model.folder / "scheduler", "generation.scheduler", reason)
    return getattr(diffusers, config.scheduler).from_config(model.scheduler.config)


@torch.no_grad()
def shown(model: FrozenDiffusion, latents: Tensor) -> NDArray[np.uint8]:
    """The picture, uint8 RGB (H, W, 3), of latents (4, h, w)."""
    return to_image(model.decode_latents(latents[None].to(model.device, model.dtype))[0])


def _run_lengths(mask: NDArray[np.bool_]) -> dict[str, Any]:
    segmentation: dict[str, Any] = describe_mask(mask)["segmentation"]
    return segmentation


def _thumbnail(image: NDArray[np.uint8]) -> Tensor:
    """A small JPEG's bytes."""
    picture = Image.fromarray(image)
    picture.thumbnail((_THUMBNAIL, _THUMBNAIL))
    stream = io.BytesIO()
    picture.save(stream, format="JPEG", quality=_QUALITY)
    return torch.frombuffer(bytearray(stream.getvalue()), dtype=torch.uint8)
