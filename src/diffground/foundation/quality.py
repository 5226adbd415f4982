"""Is the foundation sound? Figures and pictures of the mini models on held-out scenes."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from transformers import CLIPModel, CLIPProcessor

from diffground.backbone.folder import without_bars
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.sampler import sample
from diffground.foundation.config import QualityConfig
from diffground.foundation.localise import measure
from diffground.foundation.scenes import CaptionedScene, pictures, to_image
from diffground.metrics.detection import AveragePrecision, Instances
from diffground.seeds import derive_seed
from diffground.segmenters.instance import Detections, InstanceSegmenter
from diffground.world.vocabulary import BY_NAME, COLOURS, SETTINGS, THINGS


@dataclass(frozen=True)
class TwoObjects:
    """A prompt with two things, "a photo of a red ball and a blue cat on grass under a sky"."""

    text: str
    names: tuple[str, str]


def psnr(model: FrozenDiffusion, scenes: Sequence[CaptionedScene]) -> float:
    """Mean over images of the autoencoder's peak signal-to-noise ratio, in dB."""
    values = []
    for start in range(0, len(scenes), 16):
        images = pictures(scenes[start : start + 16]).to(model.device)
        with torch.no_grad():
            decoded = model.decode_latents(model.encode_images(images))
        error = ((decoded - images) / 2).square().flatten(1).mean(1)
        values.append(-10 * torch.log10(error))
    return float(torch.cat(values).mean())


def average_precision(
    segmenter: InstanceSegmenter, scenes: Sequence[CaptionedScene]
) -> tuple[float | None, dict[str, float]]:
    """AP50 over things (fraction), and for each category. Crowds are no objects to find."""
    meter = AveragePrecision()
    for start in range(0, len(scenes), 16):
        part = scenes[start : start + 16]
        found = segmenter([scene.rendering.image for scene in part])
        for scene, detections in zip(part, found, strict=True):
            meter.update(str(scene.scene.index), _instances(detections), _targets(scene))
    names = {category.id: category.name for category in THINGS}
    percent = meter.result()
    mean = None if percent is None else percent / 100
    return mean, {names[key]: value for key, value in meter.per_category().items()}


def two_object_prompts(count: int, seed: int) -> list[TwoObjects]:
    """Prompts of two things that go together; prompt i depends on i and ``seed`` only."""
    prompts = []
    for index in range(count):
        rng = np.random.default_rng(derive_seed(seed, index, "two objects"))
        settings = [s for s in SETTINGS.values() if len(s.things) > 1]
        setting = settings[int(rng.integers(len(settings)))]
        names = cast(tuple[str, str], tuple(map(str, rng.choice(setting.things, 2, replace=False))))
        colours = rng.choice(tuple(COLOURS), 2)
        phrases = [f"a {colour} {name}" for colour, name in zip(colours, names, strict=True)]
        below, above = rng.choice(setting.below), rng.choice(setting.above)
        text = f"a photo of {phrases[0]} and {phrases[1]} on {below} under {above}"
        prompts.append(TwoObjects(text.replace("a orange", "an orange"), names))
    return prompts


@torch.no_grad()
def generate(
    model: FrozenDiffusion, prompts: Sequence[str], config: QualityConfig
) -> list[NDArray[np.uint8]]:
    """Images (H, W, 3) of the prompts; image i depends on i, its prompt and the config's seed."""
    images: list[NDArray[np.uint8]] = []
    for start in range(0, len(prompts), 16):
        part = prompts[start : start + 16]
        for step in sample(
            model,
            model.encode_prompts(part),
            [derive_seed(config.seed, start + i, "generate") for i in range(len(part))],
            steps=config.inference_steps,
            guidance=config.guidance,
        ):
            latents = step.latents
        images += [to_image(image) for image in model.decode_latents(latents)]
    return images


def both_found(
    prompts: Sequence[TwoObjects],
    images: Sequence[NDArray[np.uint8]],
    segmenter: InstanceSegmenter,
    score: float,
) -> list[bool]:
    """Whether the segmenter finds both things of each prompt in its image."""
    found = segmenter(images, threshold=score)
    return [set(p.names) <= set(d.labels) for p, d in zip(prompts, found, strict=True)]


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


def assess(
    diffusion: Path,
    clip: Path,
    segmenter: Path,
    scenes: Sequence[CaptionedScene],
    config: QualityConfig,
) -> tuple[dict[str, Any], list[TwoObjects], list[NDArray[np.uint8]]]:
    """All figures of the foundation, with the generated images they include."""
    model = FrozenDiffusion.from_pretrained(diffusion)
    detector = InstanceSegmenter.from_pretrained(segmenter)
    with without_bars():
        contrastive = CLIPModel.from_pretrained(clip, local_files_only=True, dtype=torch.float32)
    contrastive.eval()
    processor = CLIPProcessor.from_pretrained(clip, local_files_only=True)
    own = (config.iterations, config.sharpen)
    ways = dict.fromkeys((own, *config.variants))
    place = measure(
        model, scenes, timestep=config.timestep, seed=config.seed, propagations=tuple(ways)
    )
    ap50, per_category = average_precision(detector, scenes)
    prompts = two_object_prompts(config.images, config.seed)
    images = generate(model, [p.text for p in prompts], config)
    found = both_found(prompts, images, detector, config.found_score)
    figures = {
        "scale": "mini",
        "vae_psnr": psnr(model, scenes),
        "cross_thing_iou": place.cross[0],
        "cross_stuff_iou": place.cross[1],
        "selfcross_thing_iou": place.selfcross[own][0],
        "selfcross_stuff_iou": place.selfcross[own][1],
        "segmenter_ap50": ap50,
        "generation_both_found": float(np.mean(found)),
        "self_effective_positions": place.effective_positions,
        "clip_retrieval_at_1_of_32": retrieval(contrastive, processor, scenes),
        "selfcross_variants": [
            {"iterations": way[0], "sharpen": way[1], "thing_iou": iou[0], "stuff_iou": iou[1]}
            for way, iou in place.selfcross.items()
        ],
        "segmenter_ap50_per_category": per_category,
        "layers": model.layers.model_dump(mode="json"),
        "config": config.model_dump(mode="json"),
    }
    return figures, prompts, images


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
