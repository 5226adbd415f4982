"""The mini segmenter: a small Mask2Former trained on the world's masks.

To the rest of the project it is an off-the-shelf model. It is the only mini model that sees masks:
the diffusion model never does.
"""

from __future__ import annotations

from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from torch.utils.data import ConcatDataset, Dataset
from transformers import (
    Mask2FormerConfig,
    Mask2FormerForUniversalSegmentation,
    Mask2FormerImageProcessorPil,
    ResNetConfig,
)

from diffground.foundation.autoencoder import decode
from diffground.foundation.config import SegmenterRecipe
from diffground.foundation.fitting import Workshop
from diffground.foundation.scenes import CaptionedScene, Scenes, picture
from diffground.training.config import TrainConfig
from diffground.world.vocabulary import CATEGORIES

LABELS = {number: category.name for number, category in enumerate(CATEGORIES)}
NUMBER = {name: number for number, name in LABELS.items()}


def build_segmenter(recipe: SegmenterRecipe) -> Mask2FormerForUniversalSegmentation:
    """A Mask2Former with a small ResNet, over all categories, things and stuff."""
    backbone = ResNetConfig(
        embedding_size=recipe.stem,
        hidden_sizes=list(recipe.channels),
        depths=[1, 1, 1, 1],
        layer_type="basic",
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )
    config = Mask2FormerConfig(
        backbone_config=backbone,
        feature_size=recipe.width,
        mask_feature_size=recipe.width,
        hidden_dim=recipe.width,
        encoder_feedforward_dim=4 * recipe.width,
        dim_feedforward=4 * recipe.width,
        encoder_layers=recipe.encoder_layers,
        decoder_layers=recipe.decoder_layers + 1,  # counts the prediction before the first layer
        num_attention_heads=recipe.heads,
        num_queries=recipe.queries,
        train_num_points=recipe.points,
        use_auxiliary_loss=True,
        id2label=LABELS,
        label2id=NUMBER,
    )
    return Mask2FormerForUniversalSegmentation(config)


def _panoptic(scene: CaptionedScene) -> dict[str, Any]:
    """An image with one mask per segment; crowds, which are no instances, are left out."""
    rendering = scene.rendering
    segments = [segment for segment in rendering.segments if not segment.crowd]
    ids = torch.from_numpy(rendering.ids)
    return {
        "image": picture(scene),
        "masks": torch.stack([ids == segment.number for segment in segments]).float(),
        "labels": torch.tensor([NUMBER[segment.category.name] for segment in segments]),
    }


def _collate(items: list[dict[str, Any]]) -> dict[str, Any]:
    return {
        "images": torch.stack([item["image"] for item in items]),
        "masks": [item["masks"] for item in items],
        "labels": [item["labels"] for item in items],
    }


def _losses(model: nn.Module, batch: dict[str, Any]) -> dict[str, Tensor]:
    images, masks = batch["images"], batch["masks"]
    if torch.rand(()) < 0.5:  # noqa: PLR2004
        images, masks = images.flip(-1), [mask.flip(-1) for mask in masks]
    output = model(pixel_values=images, mask_labels=masks, class_labels=batch["labels"])
    return {"loss": output.loss.reshape(())}


def image_processor(size: int) -> Mask2FormerImageProcessorPil:
    """Scales pixels to [-1, 1], as in training; an image's shorter side becomes ``size``.

    Its shape stays, up to multiples of 32: of squeezed scenes it finds a sixth of the mugs.
    """
    return Mask2FormerImageProcessorPil(
        size={"shortest_edge": size, "longest_edge": 4 * size},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
        do_reduce_labels=False,
    )


def train_draft(shop: Workshop) -> Mask2FormerForUniversalSegmentation:
    """Trains a segmenter on the scenes' panoptic masks."""
    recipe = shop.recipe.segmenter
    torch.manual_seed(recipe.train.seed)
    model = build_segmenter(recipe)
    _fit(shop, "draft", model, Scenes(shop.scenes(recipe.scenes), _panoptic), recipe.train)
    return model


def train_segmenter(
    shop: Workshop, draft: Mask2FormerForUniversalSegmentation, vae: AutoencoderKL
) -> Mask2FormerForUniversalSegmentation:
    """Trains a draft on, half of it on what the autoencoder makes of the scenes.

    A segmenter of photographs is as robust; and what it is asked about is mostly decoded.
    """
    recipe = shop.recipe.segmenter
    scenes = shop.scenes(recipe.scenes)
    true = Scenes(scenes, _panoptic)
    data: Any = ConcatDataset([true, _Decoded(true, decode(vae, scenes))])
    _fit(shop, "segmenter", draft.requires_grad_(True), data, recipe.refine)
    return draft


class _Decoded(Dataset[dict[str, Any]]):
    """Scenes with other images, uint8 (S, 3, H, W)."""

    def __init__(self, scenes: Scenes, images: Tensor) -> None:
        self.scenes, self.images = scenes, images

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return {**self.scenes[index], "image": self.images[index].float() / 127.5 - 1}


def _fit(
    shop: Workshop,
    part: str,
    model: Mask2FormerForUniversalSegmentation,
    data: Dataset[Any],
    config: TrainConfig,
) -> None:
    key = shop.recipe.segmenter.model_dump_json()
    shop.fit(part, model, _losses, data, config, key, collate=_collate)
