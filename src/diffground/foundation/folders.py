"""From trained networks to the folders that are shipped, in the layouts of the libraries."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import AutoencoderKL, StableDiffusionPipeline, UNet2DConditionModel
from transformers import (
    CLIPModel,
    CLIPTextModel,
    CLIPTokenizer,
    Mask2FormerForUniversalSegmentation,
    ViTModel,
)

from diffground.backbone.layers import LAYERS_FILE, LayerTable
from diffground.foundation.clip import build_processor
from diffground.foundation.diffusion import build_scheduler
from diffground.foundation.segmenter import image_processor
from diffground.foundation.vit import vit_processor
from diffground.io.files import write_sums


def save_diffusion(
    folder: Path,
    *,
    vae: AutoencoderKL,
    unet: UNet2DConditionModel,
    text_encoder: CLIPTextModel,
    tokenizer: CLIPTokenizer,
) -> Path:
    """Writes a Stable Diffusion folder in half precision, for ``StableDiffusionPipeline``."""
    pipeline = StableDiffusionPipeline(
        vae=vae.to(torch.float16),
        unet=unet.to(torch.float16),
        text_encoder=text_encoder.to(torch.float16),
        tokenizer=tokenizer,
        scheduler=build_scheduler(),
        safety_checker=None,
        feature_extractor=None,
        requires_safety_checker=False,
    )
    pipeline.save_pretrained(folder, safe_serialization=True)
    # transformers would otherwise compute in the precision of the file, diffusers in single.
    _edit(folder / "text_encoder/config.json", dtype="float32")
    for part in ("unet", "vae"):  # where the parts were trained is nobody's business
        _edit(folder / part / "config.json", _name_or_path="")
    # The two files that older readers look for, beside tokenizer.json.
    tokenizer.backend_tokenizer.model.save(str(folder / "tokenizer"))
    write_sums(folder)
    return folder


def _edit(path: Path, **changes: str) -> None:
    content = json.loads(path.read_text("utf-8")) | changes
    path.write_text(json.dumps(content, indent=2) + "\n", "utf-8")


def save_layers(folder: Path, table: LayerTable) -> None:
    """Writes the layer table that :class:`FrozenDiffusion` reads with the folder."""
    text = json.dumps(table.model_dump(mode="json"), indent=2)
    (folder / LAYERS_FILE).write_text(text + "\n", "utf-8")


def save_clip(folder: Path, model: CLIPModel, tokenizer: CLIPTokenizer) -> Path:
    """Writes a CLIP folder with its processor, in half precision."""
    model.to(torch.float16).save_pretrained(folder)
    build_processor(tokenizer, model.config.vision_config.image_size).save_pretrained(folder)
    write_sums(folder)
    return folder


def save_segmenter(folder: Path, model: Mask2FormerForUniversalSegmentation, size: int) -> Path:
    """Writes a Mask2Former folder with its image processor, in half precision."""
    model.to(torch.float16).save_pretrained(folder)
    image_processor(size).save_pretrained(folder)
    write_sums(folder)
    return folder


def save_vit(folder: Path, model: ViTModel) -> Path:
    """Writes a ViT folder with its image processor, in half precision."""
    model.to(torch.float16).save_pretrained(folder)
    vit_processor(model.config.image_size).save_pretrained(folder)
    write_sums(folder)
    return folder
