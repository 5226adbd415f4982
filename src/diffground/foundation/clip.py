"""The mini CLIP: contrastive text and image encoders, for scoring and for image embeddings."""

from __future__ import annotations

from typing import Any

import torch
from torch import Tensor, nn
from torch.utils.data import StackDataset
from transformers import (
    CLIPConfig,
    CLIPImageProcessorPil,
    CLIPModel,
    CLIPProcessor,
    CLIPTokenizer,
    CLIPVisionConfig,
)

from diffground.foundation.config import ClipRecipe
from diffground.foundation.diffusion import text_config, token_ids
from diffground.foundation.fitting import Workshop
from diffground.foundation.scenes import Scenes, picture


def build_clip(recipe: ClipRecipe, tokenizer: CLIPTokenizer, size: int) -> CLIPModel:
    """CLIP's two transformers at the recipe's size, for images of ``size`` pixels."""
    text = text_config(tokenizer, recipe.width, recipe.layers, recipe.heads, recipe.projection)
    vision = CLIPVisionConfig(
        hidden_size=recipe.width,
        intermediate_size=4 * recipe.width,
        num_hidden_layers=recipe.layers,
        num_attention_heads=recipe.heads,
        projection_dim=recipe.projection,
        image_size=size,
        patch_size=recipe.patch,
    )
    return CLIPModel(
        CLIPConfig(
            text_config=text.to_dict(),
            vision_config=vision.to_dict(),
            projection_dim=recipe.projection,
        )
    )


def build_processor(tokenizer: CLIPTokenizer, size: int) -> CLIPProcessor:
    """Tokenizer and image processor; pixels are scaled to [-1, 1], as in training."""
    images = CLIPImageProcessorPil(
        size={"shortest_edge": size},
        crop_size={"height": size, "width": size},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )
    return CLIPProcessor(images, tokenizer)


def _losses(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
    output = model(input_ids=batch["ids"].long(), pixel_values=batch["image"], return_loss=True)
    chosen = output.logits_per_image.argmax(1)
    correct = chosen == torch.arange(len(chosen), device=chosen.device)
    return {"loss": output.loss, "accuracy": correct.float().mean()}


def train_clip(shop: Workshop, tokenizer: CLIPTokenizer) -> CLIPModel:
    """Trains image and text encoders on prompts with the contrastive loss."""
    recipe = shop.recipe.clip
    torch.manual_seed(recipe.train.seed)
    scenes = shop.scenes(recipe.scenes)
    model = build_clip(recipe, tokenizer, shop.canvas.size)
    ids: Any = token_ids(tokenizer, [scene.prompt.text for scene in scenes])
    data: Any = StackDataset(image=Scenes(scenes, picture), ids=ids)
    shop.fit("clip", model, _losses, data, recipe.train, key=recipe.model_dump_json())
    return model
