"""The foundation step by step, each step from folder to folder, so that any can be resumed.

``work`` holds checkpoints and the parts; the last step assembles what is shipped.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from torch.utils.data import Dataset, StackDataset
from transformers import CLIPTextModel, CLIPTokenizer

from diffground.backbone.frozen import FrozenDiffusion
from diffground.foundation.autoencoder import encode, train_autoencoder
from diffground.foundation.clip import train_clip
from diffground.foundation.config import FoundationRecipe, QualityConfig
from diffground.foundation.diffusion import token_ids, train_diffusion
from diffground.foundation.folders import save_clip, save_diffusion, save_layers, save_segmenter
from diffground.foundation.localise import choose_layers
from diffground.foundation.scenes import captioned_scenes
from diffground.foundation.segmenter import train_segmenter
from diffground.foundation.tokenizer import train_tokenizer
from diffground.loading import without_bars
from diffground.store.manifest import config_hash
from diffground.training.loop import TrainResult

OnLog = Callable[[dict[str, float], int], None]
LOSSES = "losses.json"
LAYER_SCENES = 64  # training scenes on which the layers are chosen


def make_autoencoder(recipe: FoundationRecipe, work: Path, on_log: OnLog | None = None) -> Path:
    """Trains the VAE; returns its diffusers folder."""
    source = recipe.scenes
    scenes = captioned_scenes(source.seed, recipe.autoencoder.scenes, source.size)
    vae, result = train_autoencoder(
        scenes, recipe.autoencoder, _checkpoints(recipe, work, "autoencoder"), on_log
    )
    folder = work / "autoencoder"
    vae.save_pretrained(folder)
    return _noted(folder, result)


def make_diffusion(
    recipe: FoundationRecipe, work: Path, autoencoder: Path, on_log: OnLog | None = None
) -> Path:
    """Trains tokenizer, text encoder and UNet on the VAE's latents; returns their folder."""
    source = recipe.scenes
    vae = AutoencoderKL.from_pretrained(autoencoder, local_files_only=True)
    scenes = captioned_scenes(source.seed, source.count, source.size, recipe.diffusion.mixed)
    prompts = [scene.prompt.text for scene in scenes]
    narratives = [scene.narrative.text for scene in scenes]
    tokenizer = train_tokenizer(prompts + narratives, recipe.diffusion.vocabulary)
    vae.to("cuda" if torch.cuda.is_available() else "cpu")
    latents = encode(vae, scenes) * vae.config.scaling_factor
    bare = [scene.bare.text for scene in scenes]
    words = {"prompt": prompts, "bare": bare, "narrative": narratives}
    ids: dict[str, Any] = {name: token_ids(tokenizer, texts) for name, texts in words.items()}
    data: Dataset[Any] = StackDataset(latents=latents, **ids)
    unet, text, result = train_diffusion(
        data, tokenizer, recipe.diffusion, _checkpoints(recipe, work, "diffusion"), on_log
    )
    folder = work / "diffusion"
    unet.save_pretrained(folder / "unet")
    text.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    return _noted(folder, result)


def make_clip(
    recipe: FoundationRecipe, work: Path, diffusion: Path, target: Path, on_log: OnLog | None = None
) -> Path:
    """Trains CLIP with the diffusion model's tokenizer and writes the folder that is shipped."""
    tokenizer = CLIPTokenizer.from_pretrained(diffusion / "tokenizer", local_files_only=True)
    source = recipe.scenes
    scenes = captioned_scenes(source.seed, source.count, source.size)
    model, result = train_clip(
        scenes, tokenizer, recipe.clip, _checkpoints(recipe, work, "clip"), on_log
    )
    _noted(work / "clip", result)
    return save_clip(target, model.cpu(), tokenizer)


def make_segmenter(
    recipe: FoundationRecipe, work: Path, target: Path, on_log: OnLog | None = None
) -> Path:
    """Trains the segmenter and writes the folder that is shipped."""
    source = recipe.scenes
    scenes = captioned_scenes(source.seed, recipe.segmenter.scenes, source.size)
    model, result = train_segmenter(
        scenes, recipe.segmenter, _checkpoints(recipe, work, "segmenter"), on_log
    )
    _noted(work / "segmenter", result)
    return save_segmenter(target, model.cpu(), source.size)


def assemble(
    recipe: FoundationRecipe,
    quality: QualityConfig,
    autoencoder: Path,
    diffusion: Path,
    target: Path,
) -> Path:
    """Writes the Stable Diffusion folder; measures on training scenes which layers localise."""
    with without_bars():
        save_diffusion(
            target,
            vae=AutoencoderKL.from_pretrained(autoencoder, local_files_only=True),
            unet=UNet2DConditionModel.from_pretrained(diffusion / "unet", local_files_only=True),
            text_encoder=CLIPTextModel.from_pretrained(
                diffusion / "text_encoder", local_files_only=True
            ),
            tokenizer=CLIPTokenizer.from_pretrained(diffusion / "tokenizer", local_files_only=True),
        )
    source = recipe.scenes
    table = choose_layers(
        FrozenDiffusion.from_pretrained(target),
        captioned_scenes(source.seed, LAYER_SCENES, source.size),
        timestep=quality.timestep,
        seed=quality.seed,
        iterations=quality.iterations,
        sharpen=quality.sharpen,
    )
    save_layers(target, table)
    return target


def last_losses(work: Path) -> dict[str, dict[str, float]]:
    """The last row of every part's training history."""
    parts = ("autoencoder", "diffusion", "clip", "segmenter")
    return {part: json.loads((work / part / LOSSES).read_text("utf-8"))[-1] for part in parts}


def _checkpoints(recipe: FoundationRecipe, work: Path, part: str) -> Path:
    """Apart for every set of training scenes; the loop itself refuses another recipe's."""
    return work / "checkpoints" / config_hash(recipe.scenes) / part


def _noted(folder: Path, result: TrainResult) -> Path:
    folder.mkdir(parents=True, exist_ok=True)
    history: list[dict[str, Any]] = list(result.history)
    (folder / LOSSES).write_text(json.dumps(history, indent=1) + "\n", "utf-8")
    return folder
