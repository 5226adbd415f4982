"""The mini Stable Diffusion trained on: it stands for the fine-tuned checkpoint of 003's Table 6.

Its scenes have one or two single things, as prompts of the papers that generate pictures have: what
such a prompt asks for is then drawn more often and better.
"""

from __future__ import annotations

import shutil
from pathlib import Path

import torch
from diffusers import AutoencoderKL, UNet2DConditionModel
from transformers import CLIPTextModel, CLIPTokenizer

from diffground.backbone.folder import ModelFolder, without_bars
from diffground.backbone.layers import LAYERS_FILE
from diffground.foundation.autoencoder import encode
from diffground.foundation.config import DiffusionRecipe, FineTuning
from diffground.foundation.diffusion import Objective, lessons, token_ids
from diffground.foundation.folders import save_diffusion
from diffground.foundation.scenes import captioned_scenes
from diffground.store.manifest import config_hash
from diffground.training.loop import OnLog, train
from diffground.training.processes import processes
from diffground.world.config import Canvas


def fine_tune(
    source: Path,
    target: Path,
    work: Path,
    recipe: DiffusionRecipe,
    config: FineTuning,
    canvas: Canvas,
    on_log: OnLog | None = None,
) -> Path:
    """Trains UNet and text encoder of a mini Stable Diffusion on, and writes it with the same VAE.

    Args:
        source: its folder; how it was trained is ``recipe``.
        work: below which checkpoints lie; a killed training goes on.
    """
    known = {
        "model": ModelFolder.check(source).fingerprint(),
        "config": config.key_content(),
        "canvas": canvas._asdict(),
    }
    key = config_hash(known)
    with without_bars():
        unet = UNet2DConditionModel.from_pretrained(
            source / "unet", local_files_only=True, torch_dtype=torch.float32
        )
        text = CLIPTextModel.from_pretrained(
            source / "text_encoder", local_files_only=True, dtype=torch.float32
        )
        vae = AutoencoderKL.from_pretrained(
            source / "vae", local_files_only=True, torch_dtype=torch.float32
        )
    tokenizer = CLIPTokenizer.from_pretrained(source / "tokenizer", local_files_only=True)
    scenes = captioned_scenes(config.seed, config.count, canvas, mixed=recipe.mixed, simple=1.0)
    with torch.no_grad():
        latents = encode(vae.to(processes().device), scenes) * vae.config["scaling_factor"]
    objective = Objective(
        unet.to(memory_format=torch.channels_last), text, token_ids(tokenizer, [""]), recipe
    )
    objective.phase = config.phase
    train(
        model=objective,
        loss_fn=lambda model, batch: model(batch),
        dataset=lessons(latents, scenes, tokenizer),
        config=config.phase.train,
        folder=work / f"fine-tuning-{key[:12]}",
        on_log=on_log,
        key=key,
        description="fine-tuning",
    )
    with without_bars():
        save_diffusion(target, vae=vae.cpu(), unet=unet, text_encoder=text, tokenizer=tokenizer)
    if (source / LAYERS_FILE).exists():
        shutil.copyfile(source / LAYERS_FILE, target / LAYERS_FILE)
    return target
