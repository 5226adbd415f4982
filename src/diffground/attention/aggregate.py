"""One map per class of an image, from one truncated pass of the frozen model (Text2Mask, 002, §3).

maps = class_maps(model, image, prompts, AggregationConfig(), item="2007_000032", seed=42)
scores = image_scores(maps, config)      # (K+1, H, W), background first, for the dense CRF
labels = initial_labels(maps, config)    # (H, W), 0 = background, k + 1 = maps.keys[k]

``B`` prompts times noises · ``K`` classes · ``D`` draws that have a background each · ``h, w`` the
self layer's grid · ``H, W`` image pixels

The public code runs the UNet four times per image (with and without the prompt, and a second step
of its sampler), and squares the self map of each of the 16 blocks. What it reads from them is in
the first pass with the prompt, before ``up_blocks.2.attentions.1`` has attended: one pass up to
there gives the same maps. Self² · Cross is two products with a vector. The self map itself, (N, N)
with N = 1728 at 768 x 576 pixels, is made head by head and takes 12 MB: two fused attentions with
Cross as their value would do without it, but take longer (0.21 s for 0.16 s on one core), and
neither sharpening nor CBP could be had that way.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, replace
from typing import Final, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffground.attention.baselines import (
    SEGMENTS,
    cbp,
    daam,
    daam_layers,
    daam_timesteps,
    daam_trajectory,
)
from diffground.attention.config import AggregationConfig
from diffground.attention.official import box_mask
from diffground.attention.preprocess import Geometry, prepare
from diffground.attention.presence import neutral_tokens, presence
from diffground.attention.queries import Prompt
from diffground.attention.selfcross import aggregate_cross, minmax, propagate
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import LayerTable, cross_sites, paper_layer
from diffground.backbone.probe import ProbeRequest, ProbeResult
from diffground.backbone.text import Overflow, PromptEncoding
from diffground.errors import InputError
from diffground.seeds import derive_seed

# Raised when the same settings give other class maps, or scores of them, here or in the modules
# that this one calls; the baselines have a number of their own.
CODE_VERSION: Final = 2

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class ClassMaps:
    """The maps of an image's classes: float32 in [0, 1], (K, h, w), on the CPU.

    ``keys`` are the classes in the order of the prompts, without background phrases. The grid
    covers the *padded* image, whose padding took part in the min-max, as in the public code:
    ``geometry`` cuts it off. ``cross`` (K, h, w) is min-maxed Cross, what SelfCross began with.
    ``peaks`` (D, h, w) is the highest class, which the background is scored of: that of each draw
    where masks are averaged, else that of ``maps``, and D is 1. ``presence`` (K,) says how much of
    each class there is, see :mod:`.presence`: the mean of the draws, NaN of a class that truncation
    took, None of maps that were read from a file.
    """

    keys: tuple[str, ...]
    maps: Tensor
    cross: Tensor
    peaks: Tensor
    geometry: Geometry
    presence: Tensor | None = None

    def with_maps(self, maps: Tensor) -> ClassMaps:
        """The same with other maps (K, h, w), whose background is scored of themselves."""
        return replace(self, maps=maps, peaks=_peaks(maps))


def layers_read(model: FrozenDiffusion, config: AggregationConfig) -> LayerTable:
    """The layers that are read: those of ``config``, else the model folder's own."""
    cross, affinity = model.layers.cross, model.layers.self_layer
    if config.cross_layers is not None:
        cross = tuple(f"{paper_layer(index)}.attn2" for index in config.cross_layers)
    if config.self_layer is not None:
        affinity = f"{paper_layer(config.self_layer)}.attn1"
    return LayerTable(cross=cross, self_layer=affinity)


@torch.no_grad()
def class_maps(
    model: FrozenDiffusion,
    image: NDArray[np.uint8],
    prompts: Sequence[Prompt],
    config: AggregationConfig,
    *,
    item: str,
    seed: int,
) -> ClassMaps:
    """The maps of all classes of ``prompts`` in an image, uint8 RGB (H, W, 3).

    Several prompts (separate queries, or one that overflowed) are a batch under the same noises.
    Randomness is that of ``(seed, item, draw)``: neither order nor batches change it.

    Raises:
        InputError: no class to look for, or one twice; a phrase without tokens; a layer that the
            model does not have; a prompt longer than the text encoder reads, unless ``official``
            truncates it, see :func:`latent_maps`.
    """
    pixels, geometry = prepare(model, image, config.compat, config.long_side)
    seeds = [derive_seed(seed, item, "vae")]
    latents = model.encode_images(pixels, seeds=seeds)
    keys, maps, cross, peaks, there = latent_maps(
        model, latents, prompts, config, item=item, seed=seed
    )
    return ClassMaps(keys, maps, cross, peaks, geometry, there)


@torch.no_grad()
def latent_maps(
    model: FrozenDiffusion,
    latents: Tensor,
    prompts: Sequence[Prompt],
    config: AggregationConfig,
    *,
    item: str,
    seed: int,
) -> tuple[tuple[str, ...], Tensor, Tensor, Tensor, Tensor]:
    """Keys, maps, Cross, peaks, presence of :class:`ClassMaps` for clean latents (1, 4, H/8, W/8).

    What :func:`class_maps` does once the VAE is done; see there. A class that ``official`` lost
    because its prompt was truncated has a map of zeros, so no pixel. (The public code stops at such
    a class; of one that is cut by a single token, it reads the end token in its place.)
    """
    keys = _keys(prompts)
    maps: list[list[Tensor]] = [[] for _ in prompts]
    cross: list[list[Tensor]] = [[] for _ in prompts]
    there: list[list[Tensor]] = [[] for _ in prompts]
    for number, draw, result, words in _probed(model, latents, prompts, config, item, seed):
        one, before, score = _normalised_maps(
            model, result, words, config, derive_seed(seed, item, f"segments {draw}")
        )
        maps[number].append(_placed(one.cpu(), words, 0.0))
        cross[number].append(_placed(before.cpu(), words, 0.0))
        there[number].append(_placed(score.cpu(), words, float("nan")))

    def mean(draws: list[list[Tensor]]) -> Tensor:
        # Of normalised maps, before the background and any decision; not normalised again.
        return torch.cat([torch.stack(of_prompt).mean(dim=0) for of_prompt in draws if of_prompt])

    found = mean(maps)
    peaks = _peaks(found)
    if config.averages_masks:
        by_draw = zip(*(of_prompt for of_prompt in maps if of_prompt), strict=True)
        peaks = torch.cat([_peaks(torch.cat(of_draw)) for of_draw in by_draw])
    return keys, found, mean(cross), peaks, mean(there)


def background_score(peaks: Tensor, threshold: float, power: float) -> Tensor:
    """``|2·threshold - peak|^power`` (h, w), the mean of the draws: 002, §3.2 and appendix B.1.

    ``peaks`` (D, h, w) are the highest classes, see :class:`ClassMaps`. The text has (1 - max)², a
    threshold of 0.5; the public code takes 0.35 for COCO, where the base is negative once a class
    is above 0.7. The absolute value is what its square makes of that.
    """
    return ((2 * threshold - peaks).abs() ** power).mean(dim=0)


def scores(maps: ClassMaps, config: AggregationConfig) -> Tensor:
    """The background's score and the classes', (K+1, h, w), on the grid of the maps."""
    background = background_score(maps.peaks, config.thresholds[1], config.background_power)
    return torch.cat([background[None], maps.maps])


def image_scores(maps: ClassMaps, config: AggregationConfig) -> Tensor:
    """The scores (K+1, H, W) of every pixel of the image, background first: bilinear."""
    return maps.geometry.to_image(scores(maps, config), config.compat)


def initial_labels(maps: ClassMaps, config: AggregationConfig) -> NDArray[np.uint8]:
    """The mask (H, W) before any refinement: 0 is the background, k + 1 is ``maps.keys[k]``.

    ``official`` decides on the grid and enlarges the labels, ``paper`` enlarges the scores first
    ("after upsampling", §3.2).
    """
    assert len(maps.keys) < np.iinfo(np.uint8).max, len(maps.keys)
    if config.compat == "official":
        labels = maps.geometry.nearest(scores(maps, config).argmax(dim=0))
    else:
        labels = image_scores(maps, config).argmax(dim=0)
    return labels.numpy().astype(np.uint8)


def _peaks(maps: Tensor) -> Tensor:
    return maps.amax(dim=0, keepdim=True)


def spread(self_map: Tensor, cross: Tensor, config: AggregationConfig) -> Tensor:
    """SelfCross (K, h, w) in [0, 1], eq. 3 and 4: Cross (K, h, w) along Self (N, N).

    ``cross`` is as :func:`aggregate_cross` gives it. The map itself may come of another pass over
    the same noisy latents.
    """
    start = cross
    if config.compat == "official":
        # (Self^i ∘ mask on its columns) · c = Self^i · (mask ∘ c)
        stretched = minmax(cross)
        start = stretched * box_mask(stretched, config.thresholds[0])
    # Rows of Self sum to 1, so a constant passes through and the min-max drops it. Without it, a
    # nearly uniform Self leaves differences that float32 still resolves.
    start = start - start.mean(dim=(-2, -1), keepdim=True)
    return minmax(propagate(self_map, start, config.iterations, config.sharpen))


class _Words(NamedTuple):
    """What is read of a prompt: the tokens of each class, and of the words that name nothing."""

    classes: list[list[int]]
    neutral: list[int]


def _placed(found: Tensor, words: _Words, missing: float) -> Tensor:
    """What belongs to the classes that have tokens, among those of all; ``missing`` for others."""
    whole = found.new_full((len(words.classes), *found.shape[1:]), missing)
    whole[[bool(of_class) for of_class in words.classes]] = found
    return whole


def _keys(prompts: Sequence[Prompt]) -> tuple[str, ...]:
    keys = tuple(p.key for prompt in prompts for p in prompt.phrases if not p.background)
    if not keys:
        raise InputError("prompt", "classes", "there is no class to look for")
    if twice := sorted({key for key in keys if keys.count(key) > 1}):
        raise InputError("prompt", "classes", f"asked for more than once: {', '.join(twice)}")
    return keys


def _probed(
    model: FrozenDiffusion,
    latents: Tensor,
    prompts: Sequence[Prompt],
    config: AggregationConfig,
    item: str,
    seed: int,
) -> Iterator[tuple[int, int, ProbeResult, _Words]]:
    """``(prompt, draw, what was probed, what to read of it)`` of every prompt under every noise.

    Prompts that only hold background words are left out: nothing would be read from them.
    """
    asked = [i for i, prompt in enumerate(prompts) if any(not p.background for p in prompt.phrases)]
    overflow: Overflow = "truncate" if config.compat == "official" else "error"
    encoding = model.encode_prompts([prompts[i].text for i in asked], overflow=overflow)
    words = [
        _Words(
            _class_tokens(encoding, row, prompts[i]),
            neutral_tokens(
                encoding.offsets[row], [span for p in prompts[i].phrases for span in p.spans]
            ),
        )
        for row, i in enumerate(asked)
    ]
    timesteps: tuple[int, ...] = (config.timestep,)
    if config.method == "daam_trajectory":
        training_steps = int(model.scheduler.config.num_train_timesteps)
        timesteps = daam_timesteps(training_steps)
    request = _request(model, config)
    seeds = [derive_seed(seed, item, f"noise {draw}") for draw in range(config.noises)]
    pairs = [(row, draw) for draw in range(config.noises) for row in range(len(asked))]
    step = config.noise_batch or len(pairs)
    for start in range(0, len(pairs), step):
        part = pairs[start : start + step]
        rows = [row for row, _ in part]
        result: ProbeResult | None = None
        for timestep in timesteps:
            noisy = model.add_noise(latents, timestep, [seeds[draw] for _, draw in part])
            probed = model.probe(
                noisy,
                timestep,
                encoding.embeddings[rows],
                request,
                pooled=None if encoding.pooled is None else encoding.pooled[rows],
            )
            if result is not None:
                summed = {site: maps + result.heads[site] for site, maps in probed.heads.items()}
                probed = replace(probed, heads=summed)
            result = probed
        assert result is not None
        for index, (row, draw) in enumerate(part):
            yield asked[row], draw, result.item(index), words[row]


def _class_tokens(encoding: PromptEncoding, row: int, prompt: Prompt) -> list[list[int]]:
    """The tokens of a prompt's classes; none for one that truncation took, which is said aloud."""
    read = encoding.characters_read(row)
    lost = [phrase.key for phrase in prompt.phrases if max(phrase.spans)[1] > read]
    if lost:
        log.warning(
            "the prompt is longer than the %d tokens that the text encoder reads, and is cut as in "
            "the public code: nothing, or only a part, is read of %s (compat paper asks for the "
            "classes in several prompts)",
            encoding.mask.shape[1],
            ", ".join(lost),
        )
    spans = [
        [span for span in phrase.spans if span[0] < read]
        for phrase in prompt.phrases
        if not phrase.background
    ]
    if not any(spans):
        raise InputError("query", "lead", f"no class has room behind it: {prompt.text[:80]!r} ...")
    return [
        sorted({t for a, b in of_class for t in encoding.token_indices(row, (a, min(b, read)))})
        for of_class in spans
    ]


def _request(model: FrozenDiffusion, config: AggregationConfig) -> ProbeRequest:
    """What the method reads, and nothing else: the pass ends after the last of it."""
    table = layers_read(model, config)
    if config.method in {"daam", "daam_trajectory"}:
        sites = daam_layers(cross_sites(model.unet))
        heads = sites if config.method == "daam_trajectory" else ()
        return ProbeRequest(cross=sites, heads=heads, features=("conv_in",))
    # Cross alone still needs the grid that its layers are brought to: the self layer's.
    return ProbeRequest(cross=table.cross, self_=(table.self_layer,))


def _normalised_maps(
    model: FrozenDiffusion,
    result: ProbeResult,
    words: _Words,
    config: AggregationConfig,
    seed: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """Of one prompt under one noise, and of the classes that have tokens: the method's maps and
    Cross, both (K, h, w) and min-maxed, and the presence scores (K,)."""
    tokens = [of_class for of_class in words.classes if of_class]
    both = [*tokens, words.neutral] if words.neutral else tokens
    if config.method == "daam":
        layers = daam_layers(cross_sites(model.unet))
        raw = daam(result, layers, both, result.sizes["conv_in"])
    elif config.method == "daam_trajectory":
        heads = {layer: maps[0] for layer, maps in result.heads.items()}
        raw = daam_trajectory(heads, both, result.sizes["conv_in"])
    else:
        table = layers_read(model, config)
        raw = aggregate_cross(result, table.cross, both, result.sizes[table.self_layer])
    raw, neutral = raw[: len(tokens)], raw[len(tokens) :]
    there, cross = presence(raw, neutral), minmax(raw)
    if config.method in {"cross", "daam", "daam_trajectory"}:
        return cross, cross, there
    self_map = result.self_[table.self_layer][0]
    if config.method == "cbp":
        return minmax(cbp(self_map, cross, SEGMENTS, seed)), cross, there
    maps = spread(self_map, raw, config)
    if config.method == "cross+selfcross":
        maps = (maps + cross) / 2
    return maps, cross, there
