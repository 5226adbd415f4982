"""Diffusion models of given sizes with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPTokenizer

from diffground.backbone.architectures import ARCHITECTURES
from diffground.backbone.folder import ModelFolder
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.random_weights import TOKENIZER, random_part

ROOT = Path(__file__).parents[1]


def random_model(name: str, dtype: torch.dtype = torch.float32) -> FrozenDiffusion:
    """A model of the sizes of ``sd14``, ``sd15`` or ``tiny``, which needs no folder."""
    architecture = ARCHITECTURES[name]
    tokenizer = CLIPTokenizer.from_pretrained(ROOT / TOKENIZER, local_files_only=True)
    unet, vae, text = (
        random_part(architecture, part, tokenizer=tokenizer, dtype=dtype)
        for part in ("unet", "vae", "text_encoder")
    )
    source = ModelFolder(Path(name), "sd1", architecture.pairs, {}, architecture.scheduler)
    scheduler = architecture.build_scheduler()
    return FrozenDiffusion(unet, vae, [tokenizer], [text], scheduler, source)
