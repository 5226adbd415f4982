"""The mask feature and the transformer decoder whose queries are the phrases.

Li et al., "Dynamic Prompting of Frozen Text-to-Image Diffusion Models for Panoptic Narrative
Grounding", section 3.3, last paragraph; the decoder is that of Cheng et al., "Masked-attention Mask
Transformer for Universal Image Segmentation" (Mask2Former), section 3.2::

    F̂_2 (1/4, from the VAE) ─ lateral ─┐
    F̂_3 (1/8, from MLMA) ─ upsampled ──┴─ 3x3 ─ projection ── F_m
    R̂_5 ─► [masked attention to F̂_5, F̂_4, F̂_3, F̂_5, ... ─ self-attention ─ FFN] x layers ── queries
    masks = MLP(norm(queries)) · F_m, before the first layer and after each

What differs from Mask2Former, whose layers (transformers) and numbers these are:

- The queries are the phrases. They come with their meaning and have no order, so there is no
  learned query and no position embedding of queries.
- A decoder of fewer layers than levels would never see the fine ones. ``levels: together`` lets
  every layer attend to the pixels of all three at once; ``in_turn`` is Mask2Former's.
- Captions have different numbers of phrases. Padded ones are never attended to; without padding,
  the result is the library decoder's.

``B`` batch, ``K`` phrases, ``N`` = h·w pixels, ``C`` common channels, ``H`` heads. Levels are
listed fine to coarse (1/8, 1/16, 1/32), as everywhere, and visited coarse to fine.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskedAttentionDecoderLayer,
    Mask2FormerMLPPredictionHead,
    Mask2FormerSinePositionEmbedding,
)

from diffground.errors import InputError
from diffground.papers.png.config import DecoderConfig
from diffground.papers.png.map_operations import open_rows

# Raised when the same settings and weights give other masks, or a seed other weights.
CODE_VERSION: Final = 1

LEVELS = 3  # 1/8, 1/16, 1/32


class MaskFeature(nn.Module):
    """``F_m``: one step of a feature pyramid, from 1/8 to 1/4 of the image.

    Args:
        width: C.
        fine_width: channels of ``F̂_2`` (:attr:`FrozenDiffusion.decoder_width`).
    """

    def __init__(self, width: int, fine_width: int) -> None:
        super().__init__()
        groups = math.gcd(32, width)  # Mask2Former's 32, where they fit
        self.lateral = nn.Sequential(
            nn.Conv2d(fine_width, width, 1, bias=False), nn.GroupNorm(groups, width)
        )
        self.output = nn.Sequential(
            nn.Conv2d(width, width, 3, padding=1, bias=False),
            nn.GroupNorm(groups, width),
            nn.ReLU(),
        )
        self.projection = nn.Conv2d(width, width, 1)
        for module in self.modules():  # Mask2Former's: uniform with variance 1 / fan-in
            if isinstance(module, nn.Conv2d):
                nn.init.kaiming_uniform_(module.weight, a=1)
        assert self.projection.bias is not None
        nn.init.zeros_(self.projection.bias)

    def forward(self, coarse: Tensor, fine: Tensor) -> Tensor:
        """``F_m`` (B, C, 2h, 2w) of ``F̂_3`` (B, C, h, w) and ``F̂_2`` (B, fine_width, 2h, 2w)."""
        lateral = self.lateral(fine)
        upsampled = functional.interpolate(
            coarse, size=lateral.shape[-2:], mode="bilinear", align_corners=False
        )
        return self.projection(self.output(lateral + upsampled))


@dataclass(frozen=True)
class DecoderMasks:
    """The decoder mask head's predictions as float32 logits; padded phrases' mean nothing.

    First what the queries say before the first layer, then after each (deep supervision).
    """

    layers: list[Tensor]  # (layers + 1) x (B, K, H, W)
    categories: list[Tensor]  # (layers + 1) x (B, K, classes)

    @property
    def final(self) -> Tensor:
        """The prediction: the last layer's masks (B, K, H, W)."""
        return self.layers[-1]


class PhraseDecoder(nn.Module):
    """Masked attention from phrases to three levels of image features.

    Args:
        width: C, a multiple of 4 and of the number of heads.
        classes: categories that the linear head, shared over the layers, tells apart.
        config: sizes.

    Raises:
        InputError: the width is none.
    """

    def __init__(self, width: int, classes: int, config: DecoderConfig) -> None:
        super().__init__()
        for divisor in (config.heads, 4):  # 4: a sine and a cosine of each coordinate
            if width % divisor:
                raise InputError("decoder", "width", f"{width} is no multiple of {divisor}")
        self.config = config
        library = Mask2FormerConfig(
            hidden_dim=width,
            num_attention_heads=config.heads,
            dim_feedforward=config.ffn,
            dropout=0.0,
            pre_norm=False,
            activation_function="relu",
        )
        self.layers = nn.ModuleList(
            Mask2FormerMaskedAttentionDecoderLayer(library) for _ in range(config.layers)
        )
        self.layernorm = nn.LayerNorm(width)
        self.mask_embedder = Mask2FormerMLPPredictionHead(width, width, width)
        self.classifier = nn.Linear(width, classes)
        self.positions = Mask2FormerSinePositionEmbedding(width // 2, normalize=True)
        # Row i is for the i-th level visited, so coarse to fine, as in Mask2Former's weights.
        self.level_embed = nn.Parameter(torch.randn(LEVELS, width))
        for name, parameter in self.layers.named_parameters():
            if parameter.ndim > 1:
                nn.init.xavier_uniform_(parameter)
            elif name.endswith("bias"):
                nn.init.zeros_(parameter)

    def forward(
        self, queries: Tensor, images: Sequence[Tensor], mask_feature: Tensor, valid: Tensor
    ) -> DecoderMasks:
        """Masks and categories of every phrase.

        Args:
            queries: ``R̂_5``, (B, K, C).
            images: ``F̂_3, F̂_4, F̂_5``, (B, C, h, w) each, fine to coarse.
            mask_feature: ``F_m``, (B, C, H, W).
            valid: (B, K) bool, True for phrases, False for padding. What padding holds, and how
                much of it there is, does not change the phrases' results. A caption without any
                phrase gives finite numbers.
        """
        assert len(images) == LEVELS and valid.dtype == torch.bool, (len(images), valid.dtype)
        order = list(reversed(images))  # coarse to fine
        sizes = [(int(image.shape[-2]), int(image.shape[-1])) for image in order]
        levels = [self._keys_and_values(*item) for item in enumerate(order)]
        seen = [[number % LEVELS] for number in range(len(self.layers))]  # the levels of each layer
        if self.config.levels == "together":
            seen = [list(range(LEVELS))] * len(self.layers)
        heads = self.config.heads
        padded = open_rows(~valid)[:, None, None]  # (B, 1, 1, K)
        bias = queries.new_zeros(padded.shape).masked_fill(padded, float("-inf"))
        bias = bias.expand(-1, heads, queries.shape[1], -1).flatten(0, 1)  # (B·H, K, K)

        x = queries.transpose(0, 1)  # (K, B, C), as the library's layers want it
        masks, categories = self._predict(x, mask_feature)
        predictions = DecoderMasks([masks], [categories])
        for layer, chosen in zip(self.layers, seen, strict=True):
            assert isinstance(layer, Mask2FormerMaskedAttentionDecoderLayer)
            keys, values = (torch.cat([levels[level][part] for level in chosen]) for part in (0, 1))
            blocked = blocked_pixels(masks, [sizes[level] for level in chosen])  # (B, K, N)
            blocked = blocked[:, None].expand(-1, heads, -1, -1).flatten(0, 1)
            x = decoder_layer(layer, x, keys, values, blocked, bias)
            masks, categories = self._predict(x, mask_feature)
            predictions.layers.append(masks)
            predictions.categories.append(categories)
        return predictions

    def _keys_and_values(self, number: int, image: Tensor) -> tuple[Tensor, Tensor]:
        """A level's keys, which know where they are, and values, both (N, B, C)."""
        # Positions in float32: bfloat16 cannot count the pixels of a large level.
        position = self.positions(image.shape, image.device, torch.float32)
        values = image + self.level_embed[number, :, None, None]
        keys = values + position
        return keys.flatten(2).permute(2, 0, 1), values.flatten(2).permute(2, 0, 1)

    def _predict(self, queries_KBC: Tensor, mask_feature: Tensor) -> tuple[Tensor, Tensor]:
        """Mask logits (B, K, H, W) and category logits (B, K, classes)."""
        queries = self.layernorm(queries_KBC.transpose(0, 1))
        masks = torch.einsum("bkc,bchw->bkhw", self.mask_embedder(queries), mask_feature)
        return masks.float(), self.classifier(queries).float()


@torch.no_grad()
def blocked_pixels(masks: Tensor, sizes: Sequence[tuple[int, int]]) -> Tensor:
    """(B, K, N), True where a phrase of mask logits (B, K, H, W) must not look.

    ``N`` counts the pixels of levels of ``sizes``. A phrase must not look where its probability is
    below one half; one that would see nothing sees everything.
    """
    # Mask2Former's resizing, not the low-passed one of maps: small masks must not fade away.
    resized = [
        functional.interpolate(masks, size=size, mode="bilinear", align_corners=False).flatten(2)
        for size in sizes
    ]
    return open_rows(torch.cat(resized, -1).sigmoid() < 0.5)


def decoder_layer(
    layer: Mask2FormerMaskedAttentionDecoderLayer,
    x: Tensor,
    keys: Tensor,
    values: Tensor,
    blocked: Tensor,
    bias: Tensor,
) -> Tensor:
    """One layer of the library, with a mask for self-attention, which its own forward lacks.

    Args:
        layer: whose parts are used.
        x: queries, (K, B, C).
        keys: (N, B, C), with positions.
        values: (N, B, C).
        blocked: (B·H, K, N) bool, True where a query must not look.
        bias: (B·H, K, K), added to the scores of self-attention.

    Returns:
        Queries (K, B, C).
    """

    mixed, _ = layer.cross_attn(x, keys, values, attn_mask=blocked, need_weights=False)
    x = layer.cross_attn_layer_norm(x + mixed)
    # The library cannot do without position embeddings here.
    mixed, _ = layer.self_attn(x, attention_mask=bias, position_embeddings=torch.zeros_like(x))
    x = layer.self_attn_layer_norm(x + mixed)
    hidden = layer.fc2(layer.activation_fn(layer.fc1(x)))
    return layer.final_layer_norm(x + hidden)
