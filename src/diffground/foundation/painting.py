"""How well the mini diffusion model paints: images of prompts, and what is found in them."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
import torch
from numpy.typing import NDArray

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.sampler import sample
from diffground.foundation.config import QualityConfig
from diffground.foundation.prompts import Asked, bare, two_object_prompts
from diffground.foundation.scenes import to_image
from diffground.seeds import derive_seed
from diffground.segmenters.instance import InstanceSegmenter
from diffground.world.vocabulary import THINGS

BATCH = 16  # images per pass


@torch.no_grad()
def generate(
    model: FrozenDiffusion, prompts: Sequence[str], config: QualityConfig, seed: int
) -> list[NDArray[np.uint8]]:
    """Images (H, W, 3) of the prompts; image i depends on i, its prompt and ``seed``."""
    images: list[NDArray[np.uint8]] = []
    for start in range(0, len(prompts), BATCH):
        part = prompts[start : start + BATCH]
        for step in sample(
            model,
            model.encode_prompts(part),
            [derive_seed(seed, start + i, "generate") for i in range(len(part))],
            steps=config.inference_steps,
            guidance=config.guidance,
        ):
            latents = step.latents
        images += [to_image(image) for image in model.decode_latents(latents)]
    return images


def found_names(
    segmenter: InstanceSegmenter, images: Sequence[NDArray[np.uint8]], score: float
) -> list[frozenset[str]]:
    """Names of what the segmenter finds in each image with at least ``score``."""
    return [
        frozenset(detections.labels)
        for start in range(0, len(images), BATCH)
        for detections in segmenter(images[start : start + BATCH], threshold=score)
    ]


def found_shares(
    wanted: Sequence[Sequence[str]], found: Sequence[frozenset[str]]
) -> dict[str, float]:
    """How many of the things that N images should have are in them; fractions.

    ``each``: mean over things. ``both``: images with all of theirs. The same ``by chance``: every
    image asked for the things of every other one's prompt, instead of its own.
    """
    hits = np.array([[[name in f for name in names] for names in wanted] for f in found])  # N, N, 2
    own = np.eye(len(found), dtype=bool)
    return {
        "each": float(hits[own].mean()),
        "both": float(hits[own].all(-1).mean()),
        "each_chance": float(hits[~own].mean()),
        "both_chance": float(hits[~own].all(-1).mean()),
    }


def judge_painting(
    model: FrozenDiffusion, segmenter: InstanceSegmenter, config: QualityConfig, seed: int
) -> tuple[dict[str, float], dict[str, float]]:
    """Figures of the images that are made for the world ``seed``; and what share of each thing.

    Two things a prompt, in whole phrases and by their bare names, from the same noise; then every
    thing alone, "a photo of a ball".
    """
    pairs = two_object_prompts(config.images, seed)
    hits: dict[str, list[bool]] = {thing.name: [] for thing in THINGS}

    def paint(prompts: Sequence[Asked]) -> list[frozenset[str]]:
        images = generate(model, [prompt.text for prompt in prompts], config, seed)
        found = found_names(segmenter, images, config.found_score)
        for prompt, names in zip(prompts, found, strict=True):
            for name in prompt.names:
                hits[name].append(name in names)
        return found

    names = [pair.names for pair in pairs]
    whole = found_shares(names, paint(pairs))
    plain = found_shares(names, paint([bare(pair) for pair in pairs]))
    alone = [bare(Asked("", (thing.name,))) for thing in THINGS]
    single = [a.names[0] in found for a, found in zip(alone, paint(alone), strict=True)]
    figures = {
        "found_each": whole["each"],
        "generation_both_found": whole["both"],
        "found_each_by_chance": whole["each_chance"],
        "generation_both_found_by_chance": whole["both_chance"],
        "found_each_bare": plain["each"],
        "generation_both_found_bare": plain["both"],
        "found_alone_bare": float(np.mean(single)),
    }
    return figures, {name: float(np.mean(seen)) for name, seen in hits.items()}
