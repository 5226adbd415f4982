"""Adapts the steps of :mod:`diffground.foundation.build` to the catalog.

The steps are imported where they run: they bring in torch and its libraries, which a command that
runs another pipeline need not wait for.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffground.foundation.config import FineTuning, FoundationRecipe, QualityConfig
from diffground.tracking import get_tracker
from diffground.world.config import WorldConfig

if TYPE_CHECKING:
    from diffground.foundation.fitting import Workshop

log = logging.getLogger(__name__)
SHOWN = 6  # scenes in the grid of attention maps


def _shop(recipe: FoundationRecipe, world: WorldConfig, work: Path, part: str) -> Workshop:
    from diffground.foundation.fitting import Workshop

    def on_log(values: dict[str, float], step: int) -> None:
        get_tracker().log_metrics({f"{part}/{k}": v for k, v in values.items()}, step)

    return Workshop(recipe, world.canvas, work, on_log)


def draft(recipe: FoundationRecipe, world: WorldConfig, work: Path) -> Path:
    """Trains a first segmenter, whose features judge the autoencoder."""
    from diffground.foundation.build import make_draft

    return make_draft(_shop(recipe, world, work, "draft"))


def autoencoder(recipe: FoundationRecipe, world: WorldConfig, work: Path, draft: Path) -> Path:
    """Trains the VAE."""
    from diffground.foundation.build import make_autoencoder

    return make_autoencoder(_shop(recipe, world, work, "autoencoder"), draft)


def diffusion(recipe: FoundationRecipe, world: WorldConfig, work: Path, vae: Path) -> Path:
    """Trains UNet and text encoder on the VAE's latents."""
    from diffground.foundation.build import make_diffusion

    return make_diffusion(_shop(recipe, world, work, "diffusion"), vae)


def turbo(
    recipe: FoundationRecipe, world: WorldConfig, work: Path, vae: Path, teacher: Path, target: Path
) -> Path:
    """Distils the mini Stable Diffusion into SDXL's topology and few steps."""
    from diffground.foundation.build import make_turbo

    return make_turbo(_shop(recipe, world, work, "turbo"), vae, teacher, target)


def fine_tuning(
    recipe: FoundationRecipe,
    settings: FineTuning,
    world: WorldConfig,
    work: Path,
    source: Path,
    target: Path,
) -> Path:
    """Trains the mini Stable Diffusion on."""
    from diffground.foundation.fine_tuning import fine_tune

    log_metrics = get_tracker().log_metrics
    return fine_tune(source, target, work, recipe.diffusion, settings, world.canvas, log_metrics)


def clip(
    recipe: FoundationRecipe, world: WorldConfig, work: Path, words: Path, target: Path
) -> Path:
    """Trains CLIP with the tokenizer of the diffusion model."""
    from diffground.foundation.build import make_clip

    return make_clip(_shop(recipe, world, work, "clip"), words, target)


def vit(recipe: FoundationRecipe, world: WorldConfig, work: Path, target: Path) -> Path:
    """Trains the ViT, which sees neither words nor masks."""
    from diffground.foundation.build import make_vit

    return make_vit(_shop(recipe, world, work, "vit"), target)


def segmenter(
    recipe: FoundationRecipe, world: WorldConfig, work: Path, draft: Path, vae: Path, target: Path
) -> Path:
    """Trains the Mask2Former on, on reconstructions too."""
    from diffground.foundation.build import make_segmenter

    return make_segmenter(_shop(recipe, world, work, "segmenter"), draft, vae, target)


def assemble(
    recipe: FoundationRecipe,
    world: WorldConfig,
    quality: QualityConfig,
    vae: Path,
    parts: Path,
    target: Path,
) -> Path:
    """Writes the Stable Diffusion folder with its layer table."""
    from diffground.foundation.build import assemble as build

    return build(recipe, world.canvas, quality, vae, parts, target)


def card(
    recipe: FoundationRecipe,
    world: WorldConfig,
    work: Path,
    quality: dict[str, Any],
    turbo: dict[str, Any],
) -> str:
    """The Markdown of the model card."""
    from diffground.foundation.card import model_card
    from diffground.foundation.fitting import Workshop

    losses = Workshop(recipe, world.canvas, work).last_losses()
    return model_card(recipe, world, losses, quality, turbo)


def assess(
    diffusion: Path, clip: Path, segmenter: Path, world: WorldConfig, config: QualityConfig
) -> dict[str, Any]:
    """How good the mini models are, in numbers."""
    from diffground.foundation import quality

    figures = quality.assess(diffusion, clip, segmenter, world.canvas, config)
    for name, value in figures.items():
        if isinstance(value, float):
            log.info("mini world · %s = %.3f", name, value)
    return figures


def assess_vit(vit: Path, world: WorldConfig, config: QualityConfig) -> dict[str, Any]:
    """Whether the ViT learned what things are."""
    from diffground.foundation import neighbours

    figures = neighbours.assess_vit(vit, world.canvas, config)
    for name, value in figures.items():
        if isinstance(value, float):
            log.info("mini world · %s = %.3f", name, value)
    return figures


def assess_turbo(
    turbo: Path, segmenter: Path, teacher: dict[str, Any], config: QualityConfig
) -> dict[str, Any]:
    """How well the distilled model paints in few steps, beside its teacher."""
    from diffground.foundation import few_steps

    figures = few_steps.assess_turbo(turbo, segmenter, teacher, config)
    for steps, found in figures["steps"].items():
        each, both = found["found_each"], found["generation_both_found"]
        log.info("mini world · in %s step(s): found each %.3f, both %.3f", steps, each, both)
    return figures


def draw_turbo(turbo: Path, config: QualityConfig) -> Any:
    """A figure of matplotlib: what the distilled model generates of the fixed prompts in the first
    of ``turbo_steps``.
    """
    from diffground.backbone.frozen import FrozenDiffusion
    from diffground.foundation.few_steps import in_few_steps
    from diffground.foundation.painting import generate
    from diffground.foundation.pictures import generation_grid
    from diffground.foundation.prompts import PICTURES

    model, way = FrozenDiffusion.from_pretrained(turbo), in_few_steps(config, config.turbo_steps[0])
    images = generate(model, [prompt.text for prompt in PICTURES], way, config.seed)
    return generation_grid(PICTURES, images)


def draw(diffusion: Path, world: WorldConfig, config: QualityConfig) -> tuple[Any, Any]:
    """Two figures of matplotlib: generated images of a fixed list of prompts, and attention maps of
    held-out scenes.
    """
    from diffground.backbone.frozen import FrozenDiffusion
    from diffground.foundation.painting import generate
    from diffground.foundation.pictures import attention_grid, generation_grid
    from diffground.foundation.prompts import PICTURES
    from diffground.foundation.scenes import captioned_scenes

    model = FrozenDiffusion.from_pretrained(diffusion)
    images = generate(model, [prompt.text for prompt in PICTURES], config, config.seed)
    scenes = captioned_scenes(config.eval_seeds[0], SHOWN, world.canvas)
    return generation_grid(PICTURES, images), attention_grid(model, scenes, config)
