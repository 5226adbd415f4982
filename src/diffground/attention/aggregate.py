"""One map per class of an image, from one truncated pass of the frozen model (Text2Mask, 002, §3).

maps = class_maps(model, image, prompts, AggregationConfig(), item="2007_000032", seed=42)
scores = image_scores(maps, config)      # (K+1, H, W), background first, for the dense CRF
labels = initial_labels(maps, config)    # (H, W), 0 = background, k + 1 = maps.keys[k]

``B`` prompts times noises · ``K`` classes · ``h, w`` the self layer's grid · ``H, W`` image pixels

The public code runs the UNet four times per image (with and without the prompt, and a second step
of its sampler), and squares the self map of each of the 16 blocks. What it reads from them is in
the first pass with the prompt, before ``up_blocks.2.attentions.1`` has attended: one pass up to
there gives the same maps. Self² · Cross is two products with a vector. The self map itself, (N, N)
with N = 1728 at 768 x 576 pixels, is made head by head and takes 12 MB: two fused attentions with
Cross as their value would do without it, but take longer (0.21 s for 0.16 s on one core), and
neither sharpening nor CBP could be had that way.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, PositiveInt
from torch import Tensor

from diffground.attention.baselines import cbp, daam, daam_layers
from diffground.attention.official import box_mask
from diffground.attention.preprocess import Geometry, prepare
from diffground.attention.queries import Compat, Prompt
from diffground.attention.selfcross import aggregate_cross, minmax, propagate
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import LayerTable, cross_sites, paper_layer
from diffground.backbone.probe import ProbeRequest, ProbeResult
from diffground.config import Config
from diffground.errors import InputError
from diffground.seeds import derive_seed

Method = Literal["selfcross", "cross", "cross+selfcross", "cbp", "daam"]


VOC_THRESHOLDS, COCO_THRESHOLDS = (0.2, 0.5), (0.5, 0.35)  # of the box mask, of the background


class AggregationConfig(Config):
    """How class maps are made. The defaults are the public code's for VOC.

    ``compat`` decides whatever is None. ``official``: images are padded, Cross is min-maxed before
    it is propagated, a box mask limits it, initial masks are enlarged by the nearest pixel.
    ``paper``: none of that. Both draw from the VAE's posterior (§3.1).
    """

    compat: Compat = "official"
    method: Method = "selfcross"
    timestep: int = Field(default=150, ge=0, lt=1000)  # 0-based, of the training schedule
    # Layers by the papers' numbers; None: the model folder's own table, else 4 to 8 and 11.
    cross_layers: tuple[int, ...] | None = Field(default=None, min_length=1)
    self_layer: int | None = None
    iterations: int = Field(default=2, ge=0)  # of Self in SelfCross
    sharpen: PositiveFloat = 1.0  # power of the self map's entries; 1 = the paper's
    noises: PositiveInt = 1  # draws whose maps are averaged
    noise_batch: PositiveInt | None = None  # draws times prompts per pass; None: all in one
    vae_sample: bool = True  # a draw from the VAE's posterior, else its mean
    long_side: PositiveInt | None = None  # pixels; None: the public code's rule, 704 to 1024
    normalise_cross: bool | None = None  # min-max before the propagation
    box_mask: bool | None = None  # class-aware boxes around what Cross finds
    # None: the dataset's, see `for_dataset`; without a dataset VOC's
    box_threshold: float | None = Field(default=None, ge=0, lt=1)  # of a map's maximum
    background_threshold: PositiveFloat | None = None  # in (2·threshold - max)^power
    background_power: PositiveFloat = 2.0
    segments: PositiveInt = 5  # of CBP

    @property
    def normalises_cross(self) -> bool:
        """Whether Cross is min-maxed before it is propagated."""
        return self.compat == "official" if self.normalise_cross is None else self.normalise_cross

    @property
    def masks_boxes(self) -> bool:
        """Whether Cross passes through the box mask."""
        return self.compat == "official" if self.box_mask is None else self.box_mask

    @property
    def thresholds(self) -> tuple[float, float]:
        """Of the box mask and of the background."""
        box, background = VOC_THRESHOLDS
        return (
            box if self.box_threshold is None else self.box_threshold,
            background if self.background_threshold is None else self.background_threshold,
        )

    def for_dataset(self, dataset: str) -> AggregationConfig:
        """The same with the thresholds of a dataset: the public code has others for COCO."""
        box, background = self.thresholds
        if self.compat == "official" and dataset == "coco2014":
            box = COCO_THRESHOLDS[0] if self.box_threshold is None else box
            background = COCO_THRESHOLDS[1] if self.background_threshold is None else background
        return self.model_copy(update={"box_threshold": box, "background_threshold": background})

    def layers(self, model: FrozenDiffusion) -> LayerTable:
        """The layers that are read."""
        own = model.layers
        cross, affinity = own.cross, own.self_layer
        if self.cross_layers is not None:
            cross = tuple(f"{paper_layer(index)}.attn2" for index in self.cross_layers)
        if self.self_layer is not None:
            affinity = f"{paper_layer(self.self_layer)}.attn1"
        return LayerTable(cross=cross, self_layer=affinity)


@dataclass(frozen=True)
class ClassMaps:
    """The maps of an image's classes: float32 in [0, 1], (K, h, w), on the CPU.

    ``keys`` are the classes in the order of the prompts, without background phrases. The grid
    covers the *padded* image, whose padding took part in the min-max, as in the public code:
    ``geometry`` cuts it off. ``cross`` (K, h, w) is min-maxed Cross, what SelfCross began with.
    """

    keys: tuple[str, ...]
    maps: Tensor
    cross: Tensor
    geometry: Geometry


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
        InputError: no class to look for, or one twice; a phrase without tokens; a prompt longer
            than the text encoder reads; a layer that the model does not have.
    """
    pixels, geometry = prepare(model, image, config.compat, config.long_side)
    if config.vae_sample:
        seeds = [derive_seed(seed, item, "vae")]
        latents = model.encode_images(pixels, sample="sample", seeds=seeds)
    else:
        latents = model.encode_images(pixels)
    keys, maps, cross = latent_maps(model, latents, prompts, config, item=item, seed=seed)
    return ClassMaps(keys, maps, cross, geometry)


@torch.no_grad()
def latent_maps(
    model: FrozenDiffusion,
    latents: Tensor,
    prompts: Sequence[Prompt],
    config: AggregationConfig,
    *,
    item: str,
    seed: int,
) -> tuple[tuple[str, ...], Tensor, Tensor]:
    """Keys, maps and Cross of :class:`ClassMaps` for an image's clean latents (1, 4, H/8, W/8).

    What :func:`class_maps` does once the VAE is done; see there.
    """
    keys = _keys(prompts)
    maps: list[list[Tensor]] = [[] for _ in prompts]
    cross: list[list[Tensor]] = [[] for _ in prompts]
    for number, draw, result, tokens in _probed(model, latents, prompts, config, item, seed):
        one, before = _normalised_maps(
            model, result, tokens, config, derive_seed(seed, item, f"segments {draw}")
        )
        maps[number].append(one.cpu())
        cross[number].append(before.cpu())

    def mean(draws: list[list[Tensor]]) -> Tensor:
        # Of normalised maps, before the background and any decision; not normalised again.
        return torch.cat([torch.stack(of_prompt).mean(dim=0) for of_prompt in draws if of_prompt])

    return keys, mean(maps), mean(cross)


def background_score(maps: Tensor, threshold: float, power: float) -> Tensor:
    """``|2·threshold - max_k maps|^power`` (h, w) of maps (K, h, w): 002, §3.2 and appendix B.1.

    The text has (1 - max)², a threshold of 0.5; the public code takes 0.35 for COCO, where the base
    is negative once a class is above 0.7. The absolute value is what its square makes of that.
    """
    base: Tensor = 2 * threshold - maps.amax(dim=0)
    return base.abs() ** power


def scores(maps: Tensor, config: AggregationConfig) -> Tensor:
    """The background's score and the classes', (K+1, h, w), on the grid of the maps."""
    background = background_score(maps, config.thresholds[1], config.background_power)
    return torch.cat([background[None], maps])


def image_scores(maps: ClassMaps, config: AggregationConfig) -> Tensor:
    """The scores (K+1, H, W) of every pixel of the image, background first: bilinear."""
    return maps.geometry.to_image(scores(maps.maps, config), config.compat)


def initial_labels(maps: ClassMaps, config: AggregationConfig) -> NDArray[np.uint8]:
    """The mask (H, W) before any refinement: 0 is the background, k + 1 is ``maps.keys[k]``.

    ``official`` decides on the grid and enlarges the labels, ``paper`` enlarges the scores first
    ("after upsampling", §3.2).
    """
    assert len(maps.keys) < np.iinfo(np.uint8).max, len(maps.keys)
    if config.compat == "official":
        labels = maps.geometry.nearest(scores(maps.maps, config).argmax(dim=0))
    else:
        labels = image_scores(maps, config).argmax(dim=0)
    return labels.numpy().astype(np.uint8)


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
) -> Iterator[tuple[int, int, ProbeResult, list[list[int]]]]:
    """``(prompt, draw, what was probed, tokens of each class)`` of every prompt under every noise.

    Prompts that only hold background words are left out: nothing would be read from them.
    """
    asked = [i for i, prompt in enumerate(prompts) if any(not p.background for p in prompt.phrases)]
    encoding = model.encode_prompts([prompts[i].text for i in asked])
    tokens = [
        [
            sorted({t for span in phrase.spans for t in encoding.token_indices(row, span)})
            for phrase in prompts[i].phrases
            if not phrase.background
        ]
        for row, i in enumerate(asked)
    ]
    request = _request(model, config)
    seeds = [derive_seed(seed, item, f"noise {draw}") for draw in range(config.noises)]
    pairs = [(row, draw) for draw in range(config.noises) for row in range(len(asked))]
    step = config.noise_batch or len(pairs)
    for start in range(0, len(pairs), step):
        part = pairs[start : start + step]
        rows = [row for row, _ in part]
        noisy = model.add_noise(latents, config.timestep, [seeds[draw] for _, draw in part])
        result = model.probe(
            noisy,
            config.timestep,
            encoding.embeddings[rows],
            request,
            pooled=None if encoding.pooled is None else encoding.pooled[rows],
        )
        for index, (row, draw) in enumerate(part):
            yield asked[row], draw, result.item(index), tokens[row]


def _request(model: FrozenDiffusion, config: AggregationConfig) -> ProbeRequest:
    """What the method reads, and nothing else: the pass ends after the last of it."""
    table = config.layers(model)
    if config.method == "daam":
        return ProbeRequest(cross=daam_layers(cross_sites(model.unet)), features=("conv_in",))
    # Cross alone still needs the grid that its layers are brought to: the self layer's.
    return ProbeRequest(cross=table.cross, self_=(table.self_layer,))


def _normalised_maps(
    model: FrozenDiffusion,
    result: ProbeResult,
    tokens: list[list[int]],
    config: AggregationConfig,
    seed: int,
) -> tuple[Tensor, Tensor]:
    """The method's maps of one prompt under one noise, and Cross: both (K, h, w), min-maxed."""
    if config.method == "daam":
        layers = daam_layers(cross_sites(model.unet))
        maps = minmax(daam(result, layers, tokens, result.sizes["conv_in"]))
        return maps, maps
    table = config.layers(model)
    self_map = result.self_[table.self_layer][0]
    raw = aggregate_cross(result, table.cross, tokens, result.sizes[table.self_layer])
    cross = minmax(raw)
    if config.method == "cross":
        return cross, cross
    if config.method == "cbp":
        return minmax(cbp(self_map, cross, config.segments, seed)), cross
    start = cross if config.normalises_cross else raw
    if config.masks_boxes:
        # (Self^i ∘ mask on its columns) · c = Self^i · (mask ∘ c)
        start = start * box_mask(cross, config.thresholds[0])
    # Rows of Self sum to 1, so a constant passes through and the min-max drops it. Without it, a
    # nearly uniform Self leaves differences that float32 still resolves.
    start = start - start.mean(dim=(-2, -1), keepdim=True)
    maps = minmax(propagate(self_map, start, config.iterations, config.sharpen))
    if config.method == "cross+selfcross":
        maps = (maps + cross) / 2
    return maps, cross
