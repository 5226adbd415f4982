"""Did the mini ViT learn what things are? Its neighbours' categories say, without training.

``T`` things of several scenes · ``C`` channels
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.nn import functional
from transformers import ViTModel

from diffground.foundation.config import QualityConfig
from diffground.foundation.scenes import CaptionedScene, captioned_scenes
from diffground.segmenters.pooling import pooled
from diffground.segmenters.vit import VitDescriptors
from diffground.world.config import Canvas

NEIGHBOURS = 10


def things(vit: VitDescriptors, scenes: Sequence[CaptionedScene]) -> tuple[Tensor, list[str]]:
    """What ``vit`` says of every thing of the scenes: float (T, C) of length 1, and categories.

    The last layer's states, the mean over the thing's mask. Crowds are left out.
    """
    features: list[Tensor] = []
    names: list[str] = []
    for scene in scenes:
        rendering = scene.rendering
        found = [s for s in rendering.segments if s.category.is_thing and not s.crowd]
        if not found:
            continue
        masks = rendering.ids == [[[segment.number]] for segment in found]
        states = vit(rendering.image, short_side=min(masks.shape[1:])).states
        features.append(pooled(states, masks))
        names += [segment.category.name for segment in found]
    return functional.normalize(torch.cat(features), dim=-1), names


def neighbour_accuracy(
    vit: VitDescriptors, known: Sequence[CaptionedScene], asked: Sequence[CaptionedScene]
) -> tuple[float, float]:
    """How often the categories of a thing's nearest things (cosine, 10) vote for its own.

    Args:
        known: scenes among whose things the neighbours are.
        asked: held-out scenes, whose things are asked about.

    Returns:
        The share of right votes, and that of always saying the commonest category.
    """
    bank, names = things(vit, known)
    queries, truth = things(vit, asked)
    near = (queries @ bank.T).topk(min(NEIGHBOURS, len(names)), dim=-1).indices
    votes = [Counter(names[i] for i in row).most_common(1)[0][0] for row in near.tolist()]
    right = sum(vote == name for vote, name in zip(votes, truth, strict=True))
    commonest = Counter(truth).most_common(1)[0][1]
    return right / len(truth), commonest / len(truth)


def assess_vit(folder: Path, canvas: Canvas, config: QualityConfig) -> dict[str, Any]:
    """How often neighbours know a thing: the ViT's, those of one of its size that learned nothing,
    and the commonest category.

    In each world of ``config.eval_seeds`` the first half of the scenes is known and the second is
    asked about; all are held-out. Returns JSON-ready means over the worlds, and each world's.
    """
    trained = VitDescriptors.from_pretrained(folder)
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(config.seed)
        network: Any = trained.model
        blank = ViTModel(network.config, add_pooling_layer=False)
    scale = trained.mean.tolist(), trained.std.tolist()
    vits = {"vit": trained, "untrained": VitDescriptors(blank, *scale)}
    worlds: dict[str, dict[str, float]] = {}
    for seed in config.eval_seeds:
        scenes = captioned_scenes(seed, config.scenes, canvas)
        known, asked = scenes[: len(scenes) // 2], scenes[len(scenes) // 2 :]
        found = {name: neighbour_accuracy(vit, known, asked) for name, vit in vits.items()}
        worlds[str(seed)] = {
            "neighbours_vit": found["vit"][0],
            "neighbours_untrained": found["untrained"][0],
            "commonest": found["vit"][1],
        }
    first = next(iter(worlds.values()))
    means = {name: float(np.mean([world[name] for world in worlds.values()])) for name in first}
    return {"scale": "mini", **means, "per_eval_seed": worlds}
