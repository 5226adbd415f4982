"""Adapts the steps of :mod:`diffground.foundation.build` to the catalog.

The steps are imported where they run: they bring in torch and its libraries, which a command that
runs another pipeline need not wait for.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffground.foundation.config import FoundationRecipe, QualityConfig
from diffground.tracking import get_tracker


def _logged(part: str) -> Callable[[dict[str, float], int], None]:
    def on_log(values: dict[str, float], step: int) -> None:
        get_tracker().log_metrics({f"{part}/{k}": v for k, v in values.items()}, step)

    return on_log


def autoencoder(recipe: FoundationRecipe, work: Path) -> Path:
    """Trains the VAE."""
    from diffground.foundation.build import make_autoencoder

    return make_autoencoder(recipe, work, _logged("autoencoder"))


def diffusion(recipe: FoundationRecipe, work: Path, vae: Path) -> Path:
    """Trains UNet and text encoder on the VAE's latents."""
    from diffground.foundation.build import make_diffusion

    return make_diffusion(recipe, work, vae, _logged("diffusion"))


def clip(recipe: FoundationRecipe, work: Path, words: Path, target: Path) -> Path:
    """Trains CLIP with the tokenizer of the diffusion model."""
    from diffground.foundation.build import make_clip

    return make_clip(recipe, work, words, target, _logged("clip"))


def segmenter(recipe: FoundationRecipe, work: Path, target: Path) -> Path:
    """Trains the Mask2Former."""
    from diffground.foundation.build import make_segmenter

    return make_segmenter(recipe, work, target, _logged("segmenter"))


def assemble(
    recipe: FoundationRecipe, quality: QualityConfig, vae: Path, parts: Path, target: Path
) -> Path:
    """Writes the Stable Diffusion folder with its layer table."""
    from diffground.foundation.build import assemble as build

    return build(recipe, quality, vae, parts, target)


def card(recipe: FoundationRecipe, work: Path, quality: dict[str, Any]) -> str:
    """The Markdown of the model card."""
    from diffground.foundation.build import last_losses
    from diffground.foundation.card import model_card

    return model_card(recipe, last_losses(work), quality)
