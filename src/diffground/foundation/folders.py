"""From trained networks to the folders that are shipped, in the layouts of the libraries."""

from __future__ import annotations

import json
from pathlib import Path

import torch
from diffusers import (
    AutoencoderKL,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
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
from diffground.foundation.turbo import Student, build_turbo_scheduler
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
    return _save_pipeline(folder, pipeline)


def save_turbo(
    folder: Path, *, vae: AutoencoderKL, student: Student, tokenizer: CLIPTokenizer
) -> Path:
    """Writes an SDXL folder in half precision, for ``StableDiffusionXLPipeline``.

    Both text encoders have the same tokenizer.
    """
    pipeline = StableDiffusionXLPipeline(
        vae=vae.to(torch.float16),
        unet=student.unet.to(torch.float16),
        text_encoder=student.text.to(torch.float16),
        text_encoder_2=student.text_2.to(torch.float16),
        tokenizer=tokenizer,
        tokenizer_2=tokenizer,
        scheduler=build_turbo_scheduler(),
        add_watermarker=False,
    )
    return _save_pipeline(folder, pipeline)


def _save_pipeline(
    folder: Path, pipeline: StableDiffusionPipeline | StableDiffusionXLPipeline
) -> Path:
    pipeline.save_pretrained(folder, safe_serialization=True)
    for part in folder.glob("text_encoder*"):
        # transformers would otherwise compute in the precision of the file, diffusers in single.
        _edit(part / "config.json", dtype="float32")
    for name in ("unet", "vae"):  # where the parts were trained is nobody's business
        _edit(folder / name / "config.json", _name_or_path="")
    for part in folder.glob("tokenizer*"):
        # The two files that older readers look for, beside tokenizer.json.
        pipeline.tokenizer.backend_tokenizer.model.save(str(part))
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
