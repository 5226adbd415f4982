"""Diffusion models of given sizes with random weights."""

from __future__ import annotations

from pathlib import Path

import torch
from transformers import CLIPTokenizer

from diffground.backbone.architectures import ARCHITECTURES, Architecture, TextPart
from diffground.backbone.folder import ModelFolder
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.random_weights import TOKENIZER, random_part

ROOT = Path(__file__).parents[1]
TINY = ARCHITECTURES["tiny"]
TINY_XL = Architecture(
    unet={
        **ARCHITECTURES["sdxl-turbo"].unet,
        "sample_size": 8,
        "block_out_channels": (8, 16, 16),
        "attention_head_dim": (2, 4, 4),
        "transformer_layers_per_block": (1, 2, 3),
        "cross_attention_dim": 32,
        "addition_time_embed_dim": 8,
        "projection_class_embeddings_input_dim": 16 + 6 * 8,
        "norm_num_groups": 4,
    },
    vae=TINY.vae,
    texts=(
        TextPart({**TINY.texts[0].config, "num_hidden_layers": 2}),
        TextPart({**TINY.texts[0].config, "num_hidden_layers": 2, "hidden_act": "gelu"}, pad="!"),
    ),
    scheduler=ARCHITECTURES["sdxl-turbo"].scheduler,
    schedule=ARCHITECTURES["sdxl-turbo"].schedule,
)


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
