"""DAAM on synthetic samples: the baseline of 004's Table 1 (Tang et al., "What the DAAM", 2023).

Heat maps are summed over all steps of a generation, so a sample's picture is generated once more,
from its seed, and its cross-attention is watched on the way; what is made of the sums is
:func:`~diffground.attention.baselines.daam_trajectory`. As in its public code, a word is all its
occurrences in the prompt, and its map is brought to the picture's size and to [0, 1].

The code names no threshold that is good for all words: it is chosen on validation samples, by mIoU.

``K`` names in a prompt · ``N`` names of a sample · ``h, w`` latents · ``H, W`` picture
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffground.attention.baselines import daam_layers, daam_trajectory
from diffground.attention.selfcross import minmax
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import cross_sites
from diffground.backbone.probe import ProbeRequest
from diffground.backbone.sampler import sample
from diffground.backbone.text import PromptEncoding
from diffground.errors import InputError
from diffground.metrics.class_masks import ClassMasks
from diffground.papers.grounded.data_config import GenerationConfig
from diffground.papers.grounded.generation import chosen_scheduler
from diffground.papers.grounded.learning_config import DaamConfig
from diffground.papers.grounded.prompts import word_spans
from diffground.papers.grounded.samples import Sample, Samples
from diffground.progress import progress

# Raised when the same samples get other heat maps or another threshold.
CODE_VERSION: Final = 1

# How far, of their own size, latents may be from the sample's: another batch rounds otherwise, and
# steps add that up. Another picture is as far away as it is large.
_TOLERANCE: Final = 0.2


@dataclass(frozen=True, eq=False)
class Daam:
    """DAAM with a threshold, for samples of one way of generation.

    Attributes:
        batch: pictures that are generated at once.
    """

    model: FrozenDiffusion
    generation: GenerationConfig
    threshold: float
    batch: int = 1

    @torch.no_grad()
    def scores(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """Heat maps (N, H, W) in [0, 1]; 0 for a name that the prompt lacks, which has none.

        Raises:
            InputError: the picture that comes of a sample's seed is not the sample's.
        """
        found = []
        for start in range(0, len(samples), self.batch):
            part = samples[start : start + self.batch]
            found += self._part(part)
        return found

    def _part(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        model, settings = self.model, self.generation
        encodings = [model.encode_prompts([each.prompt]) for each in samples]
        layers = daam_layers(cross_sites(model.unet))
        steps = sample(
            model,
            PromptEncoding.joined(encodings),
            [each.seed for each in samples],
            steps=settings.steps,
            guidance=settings.guidance,
            size=settings.size,
            scheduler=chosen_scheduler(model, settings),
            probe=ProbeRequest(cross=layers, heads=layers),
        )
        heads: dict[str, Tensor] = {}
        for step in steps:
            assert step.probe is not None
            for layer, maps in step.probe.heads.items():  # (B, heads, tokens, h, w)
                heads[layer] = heads[layer] + maps if layer in heads else maps
        _check_latents(samples, step.entering)
        return [
            self._maps(each, encoding, {name: maps[index] for name, maps in heads.items()})
            for index, (each, encoding) in enumerate(zip(samples, encodings, strict=True))
        ]

    def _maps(
        self, one: Sample, encoding: PromptEncoding, heads: dict[str, Tensor]
    ) -> NDArray[np.float32]:
        tokens = {
            name: [t for span in spans for t in encoding.token_indices(0, span)]
            for name in one.names
            if (spans := word_spans(one.prompt, name))
        }
        scores = np.zeros(one.masks.shape, np.float32)
        if tokens:
            height, width = one.latent.shape[-2:]
            maps = daam_trajectory(heads, [*tokens.values()], (height, width))
            size = (int(one.masks.shape[1]), int(one.masks.shape[2]))
            large = functional.interpolate(maps[None], size, mode="bicubic", align_corners=False)
            for name, heat in zip(tokens, minmax(large[0]), strict=True):
                scores[one.names.index(name)] = heat.numpy()
        return scores


def choose_threshold(model: FrozenDiffusion, samples: Samples, config: DaamConfig) -> Daam:
    """DAAM with the threshold that has the best class-wise mIoU on validation samples.

    All thresholds are measured in one pass. Of equal ones the lowest is taken.

    Raises:
        InputError: there is no sample.
    """
    if not len(samples):
        raise InputError(samples.source.folder, "samples", "none to choose DAAM's threshold on")
    samples.source.check_model(model.fingerprint())
    generation = samples.source.generation
    daam = Daam(model, generation, 0.5, config.batch)
    found = {threshold: ClassMasks() for threshold in sorted({*config.thresholds})}
    starts = range(0, len(samples), config.batch)
    for start in progress(starts, "choosing DAAM's threshold", total=len(starts)):
        part = list(samples[start : start + config.batch])
        for one, scores in zip(part, daam.scores(part), strict=True):
            for threshold, masks in found.items():
                masks.update(one.names, scores > threshold, one.masks)
    best = max(found, key=lambda threshold: found[threshold].result()["class"])
    return Daam(model, generation, best, config.batch)


def _check_latents(samples: Sequence[Sample], entering: Tensor) -> None:
    """InputError unless these are the latents of the samples, up to rounding."""
    for one, latent in zip(samples, entering, strict=True):
        kept = one.latent.float()
        apart = (latent.float().cpu() - kept).norm() / kept.norm().clamp_min(1e-6)
        if float(apart) > _TOLERANCE:
            reason = (
                "its seed gives another picture here: another device or other versions of the "
                "libraries made it; make the samples here"
            )
            raise InputError(f"sample {one.id}", "seed", reason)
