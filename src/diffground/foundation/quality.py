"""Is the foundation sound? Figures of the mini models on held-out scenes."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from itertools import chain
from pathlib import Path
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from diffground.backbone.folder import without_bars
from diffground.backbone.frozen import FrozenDiffusion
from diffground.foundation.config import QualityConfig
from diffground.foundation.localise import PAPER, Propagation, bare_names, measure, whole_phrases
from diffground.foundation.painting import found_names, judge_painting
from diffground.foundation.scenes import CaptionedScene, captioned_scenes, pictures, to_image
from diffground.metrics.detection import AveragePrecision, Instances
from diffground.segmenters.instance import Detections, InstanceSegmenter
from diffground.world.config import Canvas
from diffground.world.vocabulary import BY_NAME, THINGS

Figures = dict[str, float]


@dataclass(frozen=True)
class Judged:
    """What is measured in one world of held-out scenes."""

    figures: Figures
    variants: dict[Propagation, tuple[float, float]]  # SelfCross: IoU of things and of stuff
    per_category: dict[str, Figures]  # of a kind of figure, by thing


def average_precision(
    segmenter: InstanceSegmenter, scenes: Sequence[CaptionedScene]
) -> tuple[float, Figures]:
    """AP50 over things (fraction), and for each category. Crowds are no objects to find.

    Raises ValueError where no scene has a thing.
    """
    meter = AveragePrecision()
    for start in range(0, len(scenes), 16):
        part = scenes[start : start + 16]
        found = segmenter([scene.rendering.image for scene in part])
        for scene, detections in zip(part, found, strict=True):
            meter.update(str(scene.scene.index), _instances(detections), _targets(scene))
    names = {category.id: category.name for category in THINGS}
    percent = meter.result()
    if percent is None:
        raise ValueError(f"none of {len(scenes)} scenes has a thing to find")
    return percent / 100, {names[key]: value for key, value in meter.per_category().items()}


@torch.no_grad()
def judge_reconstructions(
    model: FrozenDiffusion,
    segmenter: InstanceSegmenter,
    scenes: Sequence[CaptionedScene],
    score: float,
) -> Figures:
    """The autoencoder's mean peak signal-to-noise ratio (dB), and what is still found.

    ``found_in_renders``: of the kinds of things in the scenes, the share that the segmenter finds
    in them. ``found_in_reconstructions``: the share in what the autoencoder makes of the scenes,
    divided by that in the renders.
    """
    noise: list[Tensor] = []
    decoded: list[NDArray[np.uint8]] = []
    for start in range(0, len(scenes), 16):
        images = pictures(scenes[start : start + 16]).to(model.device)
        made = model.decode_latents(model.encode_images(images))
        error = ((made - images) / 2).square().flatten(1).mean(1)
        noise.append(-10 * torch.log10(error))
        decoded += [to_image(image) for image in made]
    wanted = [
        {s.category.name for s in scene.rendering.segments if s.category.is_thing}
        for scene in scenes
    ]

    def share(images: Sequence[NDArray[np.uint8]]) -> float:
        found = found_names(segmenter, images, score)
        pairs = zip(wanted, found, strict=True)
        return float(np.mean([name in seen for names, seen in pairs for name in names]))

    renders = share([scene.rendering.image for scene in scenes])
    return {
        "vae_psnr": float(torch.cat(noise).mean()),
        "found_in_renders": renders,
        "found_in_reconstructions": share(decoded) / renders if renders else 0.0,
    }


@torch.no_grad()
def retrieval(
    model: CLIPModel, processor: CLIPProcessor, scenes: Sequence[CaptionedScene]
) -> float:
    """How often CLIP ranks an image's own prompt first among those of 32 scenes (fraction)."""
    hits: list[Tensor] = []
    for start in range(0, len(scenes) - 31, 32):
        part = scenes[start : start + 32]
        inputs = processor(
            text=[scene.prompt.text for scene in part],
            images=[scene.rendering.image for scene in part],
            return_tensors="pt",
            padding="max_length",
        )
        logits = model(**inputs).logits_per_image
        hits.append(logits.argmax(1) == torch.arange(len(part)))
    return float(torch.cat(hits).float().mean())


def judge_attention(
    model: FrozenDiffusion, scenes: Sequence[CaptionedScene], config: QualityConfig, seed: int
) -> tuple[Figures, dict[Propagation, tuple[float, float]]]:
    """IoU of Cross and SelfCross for whole phrases and bare names, and SelfCross in other ways."""
    own = (config.iterations, config.sharpen)
    ways = tuple(dict.fromkeys((own, PAPER, *config.variants)))
    whole, plain = (
        measure(
            model,
            scenes,
            timestep=config.timestep,
            seed=seed,
            propagations=propagations,
            words=words,
        )
        for words, propagations in ((whole_phrases, ways), (bare_names, (own,)))
    )
    ious = {
        "cross": whole.cross,
        "selfcross": whole.selfcross[own],
        "cross_bare": plain.cross,
        "selfcross_bare": plain.selfcross[own],
        "selfcross_paper": whole.selfcross[PAPER],
    }
    figures = {"self_effective_positions": whole.effective_positions}
    for name, (things, stuff) in ious.items():
        way, _, kind = name.partition("_")
        end = f"_{kind}" if kind else ""
        figures |= {f"{way}_thing_iou{end}": things, f"{way}_stuff_iou{end}": stuff}
    return figures, whole.selfcross


def judge(
    model: FrozenDiffusion,
    clip: tuple[CLIPModel, CLIPProcessor],
    segmenter: InstanceSegmenter,
    scenes: Sequence[CaptionedScene],
    config: QualityConfig,
    seed: int,
) -> Judged:
    """All figures in the world ``seed``, whose scenes are ``scenes``."""
    attention, variants = judge_attention(model, scenes, config, seed)
    ap50, ap50_each = average_precision(segmenter, scenes)
    painted, painted_each = judge_painting(model, segmenter, config, seed)
    figures = {
        **judge_reconstructions(model, segmenter, scenes, config.found_score),
        **attention,
        **painted,
        "segmenter_ap50": ap50,
        "clip_retrieval_at_1_of_32": retrieval(*clip, scenes),
    }
    return Judged(figures, variants, {"segmenter_ap50": ap50_each, "found": painted_each})


def assess(
    diffusion: Path, clip: Path, segmenter: Path, canvas: Canvas, config: QualityConfig
) -> dict[str, Any]:
    """All figures of the foundation: means over the worlds ``config.eval_seeds``.

    ``deviation`` has their standard deviations (n - 1; none of one world), ``per_eval_seed`` those
    of each world.
    """
    model = FrozenDiffusion.from_pretrained(diffusion)
    detector = InstanceSegmenter.from_pretrained(segmenter)
    with without_bars():
        contrastive = CLIPModel.from_pretrained(clip, local_files_only=True, dtype=torch.float32)
    contrastive.eval()
    pair = (contrastive, CLIPProcessor.from_pretrained(clip, local_files_only=True))
    judged = {
        seed: judge(
            model, pair, detector, captioned_scenes(seed, config.scenes, canvas), config, seed
        )
        for seed in config.eval_seeds
    }
    worlds = list(judged.values())
    return {
        "scale": "mini",
        **means([world.figures for world in worlds]),
        "deviation": deviations([world.figures for world in worlds]),
        "per_eval_seed": {str(seed): world.figures for seed, world in judged.items()},
        "selfcross_variants": [
            {
                "iterations": way[0],
                "sharpen": way[1],
                "thing_iou": float(np.mean([world.variants[way][0] for world in worlds])),
                "stuff_iou": float(np.mean([world.variants[way][1] for world in worlds])),
            }
            for way in worlds[0].variants
        ],
        **{
            f"{kind}_per_category": means([world.per_category[kind] for world in worlds])
            for kind in worlds[0].per_category
        },
        "layers": model.layers.model_dump(mode="json"),
        "config": config.model_dump(mode="json"),
    }


def means(worlds: Sequence[Mapping[str, float]]) -> Figures:
    """The mean of every name over the worlds that have it."""
    names = dict.fromkeys(chain.from_iterable(worlds))
    return {name: float(np.mean([w[name] for w in worlds if name in w])) for name in names}


def deviations(worlds: Sequence[Figures]) -> Figures:
    """The standard deviation (n - 1) of every name over the worlds; nothing of a single one."""
    names = worlds[0] if len(worlds) > 1 else ()
    return {name: float(np.std([w[name] for w in worlds], ddof=1)) for name in names}


def _instances(detections: Detections) -> Instances:
    things = [i for i, name in enumerate(detections.labels) if BY_NAME[name].is_thing]
    categories = np.array([BY_NAME[detections.labels[i]].id for i in things], np.int64)
    return Instances(detections.masks[things], categories, detections.scores[things])


def _targets(scene: CaptionedScene) -> Instances:
    segments = [s for s in scene.rendering.segments if s.category.is_thing]
    size = scene.rendering.ids.shape
    masks = [scene.rendering.ids == segment.number for segment in segments]
    return Instances(
        np.stack(masks) if masks else np.zeros((0, *size), bool),
        np.array([segment.category.id for segment in segments], np.int64),
        crowd=np.array([segment.crowd for segment in segments], bool),
    )
