"""The foundation step by step, each step from folder to folder, so that any can be resumed.

``work`` holds checkpoints and the parts; the last step assembles what is shipped.
"""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from diffusers.utils.constants import SAFETENSORS_WEIGHTS_NAME
from torch.utils.data import Dataset, StackDataset
from transformers import CLIPTextModel, CLIPTokenizer
from transformers.utils import SAFE_WEIGHTS_NAME

from diffground.backbone.folder import without_bars
from diffground.backbone.frozen import FrozenDiffusion
from diffground.foundation.autoencoder import encode, train_autoencoder
from diffground.foundation.clip import train_clip
from diffground.foundation.config import FoundationRecipe, QualityConfig
from diffground.foundation.diffusion import lessons, token_ids, train_diffusion
from diffground.foundation.fitting import Workshop
from diffground.foundation.folders import (
    save_clip,
    save_diffusion,
    save_layers,
    save_segmenter,
    save_turbo,
    save_vit,
)
from diffground.foundation.localise import choose_layers
from diffground.foundation.scenes import CaptionedScene, captioned_scenes
from diffground.foundation.segmenter import train_draft, train_segmenter
from diffground.foundation.tokenizer import train_tokenizer
from diffground.foundation.turbo import kept_trajectories, train_turbo
from diffground.foundation.vit import train_vit
from diffground.io.files import sha256
from diffground.seeds import derive_seed
from diffground.segmenters.instance import InstanceSegmenter
from diffground.training.processes import processes
from diffground.world.config import Canvas

LAYER_SCENES = 64  # training scenes on which the layers are chosen


def make_draft(shop: Workshop) -> Path:
    """Trains a first segmenter, whose features judge the autoencoder; returns its folder."""
    return save_segmenter(shop.folder / "draft", train_draft(shop).cpu(), shop.canvas.size)


def make_autoencoder(shop: Workshop, draft: Path) -> Path:
    """Trains the VAE; returns its diffusers folder."""
    folder = shop.folder / "autoencoder"
    segmenter = InstanceSegmenter.from_pretrained(draft).model
    judge = sha256(draft / SAFE_WEIGHTS_NAME)
    train_autoencoder(shop, segmenter, judge).save_pretrained(folder)
    return folder


def make_diffusion(shop: Workshop, autoencoder: Path) -> Path:
    """Trains tokenizer, text encoder and UNet on the VAE's latents; returns their folder."""
    recipe = shop.recipe.diffusion
    scenes = shop.scenes(shop.recipe.scenes.count, mixed=recipe.mixed)
    words = [s.prompt.text for s in scenes] + [s.narrative.text for s in scenes]
    tokenizer = train_tokenizer(words, recipe.vocabulary)
    data, weights = _lessons(shop, autoencoder, scenes, tokenizer)
    unet, text = train_diffusion(shop, data, tokenizer, weights)
    folder = shop.folder / "diffusion"
    unet.save_pretrained(folder / "unet")
    text.save_pretrained(folder / "text_encoder")
    tokenizer.save_pretrained(folder / "tokenizer")
    return folder


def make_turbo(shop: Workshop, autoencoder: Path, teacher: Path, target: Path) -> Path:
    """Distils the Stable Diffusion folder ``teacher`` and writes the SDXL folder that is shipped.

    ``autoencoder`` has the VAE of both as it was trained.
    """
    model = FrozenDiffusion.from_pretrained(teacher, device=processes().device)
    (tokenizer,), source = model.tokenizers, shop.recipe.turbo.trajectories
    scenes = shop.scenes(shop.recipe.scenes.count, mixed=shop.recipe.diffusion.mixed)
    data, weights = _lessons(shop, autoencoder, scenes, tokenizer)
    files = (
        teacher / "unet" / SAFETENSORS_WEIGHTS_NAME,
        teacher / "text_encoder" / SAFE_WEIGHTS_NAME,
    )
    weights = "".join([weights, *map(sha256, files)])
    prompts = []
    for number in range(source.count):
        scene = scenes[number % len(scenes)]
        draw = np.random.default_rng(derive_seed(source.seed, number, "bare")).random()
        prompts.append((scene.bare if draw < source.bare else scene.prompt).text)
    paths = kept_trajectories(shop, model, prompts, weights)
    columns: dict[str, Any] = {"ids": token_ids(tokenizer, prompts), "path": paths}
    student = train_turbo(shop, data, StackDataset(**columns), model, weights)
    with without_bars():
        return save_turbo(target, vae=model.vae.cpu(), student=student.cpu(), tokenizer=tokenizer)


def make_clip(shop: Workshop, diffusion: Path, target: Path) -> Path:
    """Trains CLIP with the diffusion model's tokenizer and writes the folder that is shipped."""
    tokenizer = CLIPTokenizer.from_pretrained(diffusion / "tokenizer", local_files_only=True)
    return save_clip(target, train_clip(shop, tokenizer).cpu(), tokenizer)


def make_vit(shop: Workshop, target: Path) -> Path:
    """Trains the ViT and writes the folder that is shipped."""
    return save_vit(target, train_vit(shop).cpu())


def make_segmenter(shop: Workshop, draft: Path, autoencoder: Path, target: Path) -> Path:
    """Trains the draft on, on reconstructions too; writes the folder that is shipped."""
    segmenter = InstanceSegmenter.from_pretrained(draft).model
    model = train_segmenter(shop, segmenter, _autoencoder(autoencoder))
    return save_segmenter(target, model.cpu(), shop.canvas.size)


def assemble(
    recipe: FoundationRecipe,
    canvas: Canvas,
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
    table = choose_layers(
        FrozenDiffusion.from_pretrained(target),
        captioned_scenes(recipe.scenes.seed, LAYER_SCENES, canvas),
        timestep=quality.timestep,
        seed=quality.seed,
        iterations=quality.iterations,
        sharpen=quality.sharpen,
    )
    save_layers(target, table)
    return target


def _autoencoder(folder: Path) -> AutoencoderKL:
    vae = AutoencoderKL.from_pretrained(folder, local_files_only=True)
    return vae.to("cuda" if torch.cuda.is_available() else "cpu")


def _lessons(
    shop: Workshop, autoencoder: Path, scenes: list[CaptionedScene], tokenizer: CLIPTokenizer
) -> tuple[Dataset[Any], str]:
    """Latents and captions of scenes, as diffusion models learn from them; the VAE's hash."""
    weights = sha256(autoencoder / SAFETENSORS_WEIGHTS_NAME)
    vae = _autoencoder(autoencoder)
    scale = vae.config["scaling_factor"]
    latents = shop.kept(f"latents-{weights[:16]}", lambda: encode(vae, scenes) * scale)
    return lessons(latents, scenes, tokenizer), weights
