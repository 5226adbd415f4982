"""How well attention finds words: the IoU of cross and SelfCross maps on captioned scenes.

``K`` phrases of a scene: its groups or kinds of things, and the stuff above and below the horizon
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffground.attention.selfcross import aggregate_cross, effective_positions, minmax, propagate
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import LayerTable, cross_sites
from diffground.backbone.probe import ProbeRequest, ProbeResult
from diffground.foundation.scenes import CaptionedScene, pictures
from diffground.metrics.iou import mask_iou
from diffground.seeds import derive_seed
from diffground.world.captions import Caption, class_names

BATCH = 16  # scenes per forward pass

Propagation = tuple[int, float]  # iterations of SelfCross, and the power that sharpens its rows
PAPER: Propagation = (2, 1.0)  # the paper's (002, section 5.1); it sharpens nothing

Words = Callable[[CaptionedScene], Caption]  # with which words a scene is asked about


def whole_phrases(scene: CaptionedScene) -> Caption:
    """The scene's prompt: "a photo of a striped red ball and two blue mugs on grass under sky"."""
    return scene.prompt


def bare_names(scene: CaptionedScene) -> Caption:
    """Its class names alone, see :func:`class_names`."""
    return class_names(scene.scene, scene.rendering)


@dataclass(frozen=True)
class Located:
    """One scene's probed maps, and what its phrases mean."""

    probed: ProbeResult  # of one item
    tokens: list[list[int]]  # of each phrase, its adjectives included
    masks: NDArray[np.bool_]  # (K, H, W)
    things: NDArray[np.bool_]  # (K,)


@torch.no_grad()
def probe_scenes(
    model: FrozenDiffusion,
    scenes: Sequence[CaptionedScene],
    request: ProbeRequest,
    timestep: int,
    seed: int,
    words: Words = whole_phrases,
) -> Iterator[Located]:
    """Probes scenes with words of their own, one noise each, seeded by the scene."""
    for start in range(0, len(scenes), BATCH):
        part = scenes[start : start + BATCH]
        images = pictures(part).to(model.device)
        seeds = [derive_seed(seed, s.scene.index, "localise") for s in part]
        noisy = model.add_noise(model.encode_images(images), timestep, seeds)
        captions = [words(scene) for scene in part]
        encoding = model.encode_prompts([caption.text for caption in captions])
        result = model.probe(noisy, timestep, encoding.embeddings, request)
        for item, (scene, caption) in enumerate(zip(part, captions, strict=True)):
            phrases = caption.phrases
            yield Located(
                result.item(item),
                [encoding.token_indices(item, (p.start, p.end)) for p in phrases],
                np.stack([_union(scene, p.groups) for p in phrases]),
                np.array([p.groups[0] >= 0 for p in phrases]),
            )


def _union(scene: CaptionedScene, groups: Sequence[int]) -> NDArray[np.bool_]:
    return np.logical_or.reduce([scene.rendering.mask(group) for group in groups])


def argmax_iou(maps: Tensor, located: Located) -> NDArray[np.float64]:
    """IoU per phrase (K,) when each pixel takes the phrase whose min-maxed map is the highest."""
    size = located.masks.shape[-2:]
    large = functional.interpolate(minmax(maps)[None], size, mode="bilinear", align_corners=False)
    winner = large[0].argmax(0).cpu().numpy()
    return mask_iou(winner[None] == np.arange(len(maps))[:, None, None], located.masks)


def cross_maps(located: Located, layers: Sequence[str]) -> Tensor:
    """Cross (K, h, w) on the finest grid of ``layers``."""
    return aggregate_cross(
        located.probed, layers, located.tokens, max(located.probed.sizes[name] for name in layers)
    )


def selfcross_maps(
    located: Located, table: LayerTable, iterations: int, sharpen: float = 1.0
) -> Tensor:
    """SelfCross (K, h, w) on the grid of the table's self layer."""
    size = located.probed.sizes[table.self_layer]
    cross = aggregate_cross(located.probed, table.cross, located.tokens, size)
    return propagate(located.probed.self_[table.self_layer][0], cross, iterations, sharpen)


@dataclass(frozen=True)
class Localisation:
    """Mean IoU over the things and over the stuff of a set of scenes."""

    cross: tuple[float, float]
    selfcross: dict[Propagation, tuple[float, float]]
    effective_positions: float  # of the self map's rows; the grid has h*w


def measure(
    model: FrozenDiffusion,
    scenes: Sequence[CaptionedScene],
    *,
    timestep: int,
    seed: int,
    propagations: Sequence[Propagation],
    words: Words = whole_phrases,
) -> Localisation:
    """Cross and, for each way to propagate it, SelfCross, with the model's own layer table."""
    table = model.layers
    request = ProbeRequest(cross=table.cross, self_=(table.self_layer,))
    things, spread, cross = [], [], []
    selfcross: dict[Propagation, list[NDArray[np.float64]]] = {way: [] for way in propagations}
    for located in probe_scenes(model, scenes, request, timestep, seed, words):
        cross.append(argmax_iou(cross_maps(located, table.cross), located))
        for (iterations, sharpen), ious in selfcross.items():
            ious.append(argmax_iou(selfcross_maps(located, table, iterations, sharpen), located))
        things.append(located.things)
        spread.append(effective_positions(located.probed.self_[table.self_layer]))
    thing = np.concatenate(things)

    def means(ious: list[NDArray[np.float64]]) -> tuple[float, float]:
        values = np.concatenate(ious)
        return float(values[thing].mean()), float(values[~thing].mean())

    return Localisation(
        means(cross), {way: means(ious) for way, ious in selfcross.items()}, float(np.mean(spread))
    )


def choose_layers(
    model: FrozenDiffusion,
    scenes: Sequence[CaptionedScene],
    *,
    timestep: int,
    seed: int,
    iterations: int,
    sharpen: float,
) -> LayerTable:
    """Measures which layers localise: the paper's numbers mean other grids on a small canvas.

    Cross layers are ranked by the mean of thing and stuff IoU that each has alone; of the n best,
    the n that are best together are taken. Then the self layer with the best SelfCross. The scenes
    must not be those that the result is judged on.
    """
    sites = cross_sites(model.unet)
    selves = tuple(site.removesuffix("attn2") + "attn1" for site in sites)
    found = list(probe_scenes(model, scenes, ProbeRequest(sites, selves), timestep, seed))
    things = np.concatenate([located.things for located in found])

    def score(ious: list[NDArray[np.float64]]) -> float:
        values = np.concatenate(ious)
        return float(values[things].mean() + values[~things].mean()) / 2

    def cross_score(layers: Sequence[str]) -> float:
        return score([argmax_iou(cross_maps(located, layers), located) for located in found])

    ranked = sorted(sites, key=lambda site: cross_score([site]), reverse=True)
    together = [ranked[:count] for count in range(1, len(ranked) + 1)]
    best = max(together, key=cross_score)
    cross = tuple(site for site in sites if site in best)

    def self_score(layer: str) -> float:
        table = LayerTable(cross=cross, self_layer=layer)
        return score([argmax_iou(selfcross_maps(x, table, iterations, sharpen), x) for x in found])

    self_layer = max(selves, key=self_score)
    note = (
        f"measured on {len(scenes)} training scenes at t={timestep}: "
        f"Cross {cross_score(cross):.3f}, SelfCross {self_score(self_layer):.3f} mean IoU"
    )
    return LayerTable(cross=cross, self_layer=self_layer, note=note)
