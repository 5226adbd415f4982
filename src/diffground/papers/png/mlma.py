"""Multi-Level Mutual Aggregation: image and phrase features of three levels refine each other.

Li et al., "Dynamic Prompting of Frozen Text-to-Image Diffusion Models for Panoptic Narrative
Grounding", section 3.3::

    F_3, F_4, F_5 ─ 1x1 conv + norm ─ concatenated pixels ──┐             ┌─ deformable attention ─►
                                                            bi-attention ─┤                 x layers
    R_3, R_4, R_5 ─ linear ───────── concatenated phrases ──┘             └─ self-attention ───────►

The layers are those of Grounding DINO's encoder (transformers), which compute just this:

- **Bi-attention** (GLIP): ``A = Q K^T / sqrt(d)`` once, of layer-normed pixels and phrases;
  ``F = norm(F) + γ_F · softmax over phrases(A) V_R`` and
  ``R = norm(R) + γ_R · softmax over pixels(A^T) V_F``.
- **Deformable attention** and FFN, post-norm, at positions that are a sine embedding plus a learned
  one of the level. Each pixel looks near its own place in every level.
- **Self-attention** and FFN over the phrases of all levels, post-norm. Phrases have no order: their
  only position is a learned embedding of the level.

Each can be switched off (Table 4), and then has no parameters. Without any, MLMA is projections.

What the paper leaves open, and what is done here:

- The number of layers, heads and so on: as in the heads of Mask2Former and ODISE, from whose
  weights the visual attention may start.
- Initialisation. The library's rules for these layers, which layers that are built outside of its
  models lack: small normal weights, sampling points that fan out from the pixel, even attention.
  (With Xavier-uniform weights instead, the mini world's full model is 4 points of Average Recall
  worse after 300 steps.)
- Padded phrases are zero in every layer and at the end, and change nothing else. In a caption
  without any phrase, bi-attention adds nothing to the image: only its layer norm stays.
- Precision. MLMA computes in its parameters' precision whatever autocast says, as the pixel decoder
  of Mask2Former: sampling positions need it, and so does bi-attention, which takes the maximum of
  the whole batch off every score; rounded to bfloat16, a result would depend on its batch.

Names of parameters (levels are counted coarse to fine in them, as in Mask2Former's pixel decoder:
0 is 1/32, 2 is 1/8; all arguments and results are listed fine to coarse)::

    image_projections.{level}.{0,1}     convolution and group norm     level_embed (3, C)
    phrase_projections.{level}          linear                         phrase_level_embed (3, C)
    layers.{i}.{fusion,deformable,phrases}

``B`` batch, ``K`` phrases, ``N`` pixels, ``C`` = C_m common channels; in a layer, ``K`` and ``N``
count the phrases and pixels of all levels.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as run_checkpointed
from transformers import GroundingDinoConfig
from transformers.models.grounding_dino.modeling_grounding_dino import (
    GroundingDinoDeformableLayer,
    GroundingDinoEncoder,
    GroundingDinoFusionLayer,
    GroundingDinoPreTrainedModel,
    GroundingDinoTextEnhancerLayer,
)
from transformers.models.mask2former.modeling_mask2former import Mask2FormerSinePositionEmbedding

from diffground.errors import InputError
from diffground.papers.png.config import MlmaConfig
from diffground.papers.png.decoder import LEVELS
from diffground.papers.png.map_operations import open_rows

# Raised when the same settings and weights give others, or a seed other weights; levels as well.
CODE_VERSION: Final = 1

FUSION_SCALE: Final = 1e-4  # γ at first, the gain of what bi-attention adds; Grounding DINO's


@dataclass(frozen=True)
class MlmaOutputs:
    """Both sides' levels, fine to coarse, in the parameters' dtype."""

    images: list[Tensor]  # F̂_3, F̂_4, F̂_5: (B, C, h, w) each
    # R̂_3, R̂_4, R̂_5: (B, K, C) each, zero where there is no phrase. Only the last, which is what the
    # decoder reads, if neither bi-attention nor self-attention lets the levels meet.
    phrases: list[Tensor]


@dataclass(frozen=True)
class _Layout:
    """What all layers share."""

    sizes: list[tuple[int, int]]  # (h, w) of the levels, coarse to fine
    shapes: Tensor  # the same, (3, 2)
    references: Tensor  # where each pixel is in every level: (1, N, 3, 2), x and y in (0, 1)
    positions: Tensor | None  # (1, N, C), if there is deformable attention
    phrase_positions: Tensor | None  # (1, K, C), if there is self-attention
    valid: Tensor  # (B, K)


class MlmaLayer(nn.Module):
    """Bi-attention, then deformable attention on pixels and self-attention on phrases."""

    def __init__(self, config: MlmaConfig) -> None:
        super().__init__()
        library = _library_config(config)
        self.fusion = GroundingDinoFusionLayer(library) if config.bi_attention else None
        self.deformable = GroundingDinoDeformableLayer(library) if config.deformable else None
        self.phrases = GroundingDinoTextEnhancerLayer(library) if config.self_attention else None
        _initialise(self, library)
        if self.fusion is not None:
            nn.init.constant_(self.fusion.vision_param, FUSION_SCALE)
            nn.init.constant_(self.fusion.text_param, FUSION_SCALE)

    def forward(
        self, images_BNC: Tensor, phrases_BKC: Tensor, layout: _Layout
    ) -> tuple[Tensor, Tensor]:
        """Both sides after the layer; padded phrases are zero before and after."""
        valid = layout.valid
        blocked = open_rows(~valid)  # a softmax over nothing would be NaN
        if self.fusion is not None:
            normed = self.fusion.layer_norm_vision(images_BNC)  # what is left without phrases
            (images_BNC, _), (phrases_BKC, _) = self.fusion(
                images_BNC, phrases_BKC, attention_mask_text=blocked
            )
            images_BNC = torch.where(valid.any(-1)[:, None, None], images_BNC, normed)
        if self.deformable is not None:
            images_BNC, _ = self.deformable(
                images_BNC,
                attention_mask=None,
                position_embeddings=layout.positions,
                reference_points=layout.references,
                spatial_shapes=layout.shapes,
                spatial_shapes_list=layout.sizes,
            )
        if self.phrases is not None:
            # Added to the scores as it is, having four axes. One of three axes would be turned
            # into this by the layer, which takes 1 for "may look", unlike its documentation.
            mask = torch.zeros_like(blocked, dtype=phrases_BKC.dtype)
            mask = mask.masked_fill(blocked, torch.finfo(mask.dtype).min)[:, None, None]
            phrases_BKC, _ = self.phrases(
                phrases_BKC, attention_masks=mask, position_embeddings=layout.phrase_positions
            )
        return images_BNC, phrases_BKC.masked_fill(~valid[..., None], 0)


class MLMA(nn.Module):
    """Three levels of image and phrase features to as many refined ones of a common width.

    Args:
        image_widths: channels of F_3, F_4 and F_5 (fine to coarse).
        phrase_width: C_t, channels of the phrases.
        config: sizes and parts.

    Raises:
        InputError: there are not three levels.
    """

    def __init__(self, image_widths: Sequence[int], phrase_width: int, config: MlmaConfig) -> None:
        super().__init__()
        if len(image_widths) != LEVELS:
            raise InputError("MLMA", "image_widths", f"{len(image_widths)} levels, not {LEVELS}")
        self.config = config
        width = config.width
        self.image_projections = nn.ModuleList(
            nn.Sequential(nn.Conv2d(channels, width, 1), nn.GroupNorm(math.gcd(32, width), width))
            for channels in reversed(image_widths)
        )
        self.phrase_levels = LEVELS if config.bi_attention or config.self_attention else 1
        self.phrase_projections = nn.ModuleList(
            nn.Linear(phrase_width, width) for _ in range(self.phrase_levels)
        )
        _initialise(self, _library_config(config))
        parts = (config.bi_attention, config.deformable, config.self_attention)
        count = config.layers if any(parts) else 0
        self.layers = nn.ModuleList(MlmaLayer(config) for _ in range(count))
        self.sine = Mask2FormerSinePositionEmbedding(width // 2, normalize=True)
        self.level_embed = self._embedding(config.deformable)
        self.phrase_level_embed = self._embedding(config.self_attention)

    def forward(
        self,
        images: Sequence[Tensor],
        phrases: Sequence[Tensor],
        valid: Tensor,
        *,
        checkpoint: bool = False,
    ) -> MlmaOutputs:
        """The refined levels.

        Args:
            images: F_3, F_4, F_5, each (B, C_i, h_i, w_i) of any float dtype.
            phrases: R_3, R_4, R_5, each (B, K, C_t); finite where padded too.
            valid: (B, K) bool, True for real phrases.
            checkpoint: keep no layer's activations for backward, run it again instead.
        """
        assert len(images) == len(phrases) == LEVELS
        assert valid.dtype == torch.bool and valid.shape == phrases[0].shape[:2] and valid.numel()
        with torch.autocast(valid.device.type, enabled=False):
            coarse_first = phrases[::-1][: self.phrase_levels]
            return self._refine(images[::-1], coarse_first, valid, checkpoint)

    def _refine(
        self, images: Sequence[Tensor], phrases: Sequence[Tensor], valid: Tensor, checkpoint: bool
    ) -> MlmaOutputs:
        """:meth:`forward` with levels listed coarse to fine."""
        own = self.phrase_projections[0].weight.dtype
        assert isinstance(own, torch.dtype)
        maps = [f(x.to(own)) for f, x in zip(self.image_projections, images, strict=True)]
        texts = [f(x.to(own)) for f, x in zip(self.phrase_projections, phrases, strict=True)]
        layout = self._layout(maps, valid)
        images_BNC = torch.cat([x.flatten(2).transpose(1, 2) for x in maps], 1)
        phrases_BKC = torch.cat(texts, 1).masked_fill(~layout.valid[..., None], 0)
        for layer in self.layers:
            if checkpoint:
                images_BNC, phrases_BKC = run_checkpointed(
                    layer, images_BNC, phrases_BKC, layout, use_reentrant=False
                )
            else:
                images_BNC, phrases_BKC = layer(images_BNC, phrases_BKC, layout)
        pixels = images_BNC.split([h * w for h, w in layout.sizes], 1)
        levels = [
            level.transpose(1, 2).unflatten(-1, size)
            for level, size in zip(pixels, layout.sizes, strict=True)
        ]
        return MlmaOutputs(levels[::-1], list(phrases_BKC.chunk(self.phrase_levels, 1))[::-1])

    def _layout(self, maps: list[Tensor], valid: Tensor) -> _Layout:
        """Sizes, positions and the mask of the concatenated levels, coarse to fine."""
        positions = phrase_positions = None
        if self.level_embed is not None:
            embedded = []
            for level, x in zip(self.level_embed, maps, strict=True):
                sine = self.sine(torch.Size((1, *x.shape[1:])), x.device, torch.float32)
                embedded.append(sine.flatten(2).transpose(1, 2).to(x.dtype) + level)
            positions = torch.cat(embedded, 1)
        if self.phrase_level_embed is not None:
            phrase_positions = self.phrase_level_embed.repeat_interleave(valid.shape[1], 0)[None]
        sizes = [(x.shape[-2], x.shape[-1]) for x in maps]
        whole = maps[0].new_ones(1, LEVELS, 2)  # no part of a level is padding
        references = GroundingDinoEncoder.get_reference_points(sizes, whole, whole.device)
        shapes = torch.tensor(sizes, device=whole.device)
        return _Layout(
            sizes,
            shapes,
            references,
            positions,
            phrase_positions,
            valid.repeat(1, self.phrase_levels),
        )

    def _embedding(self, wanted: bool) -> nn.Parameter | None:
        """A learned embedding of the levels, (3, C)."""
        return nn.Parameter(torch.randn(LEVELS, self.config.width)) if wanted else None


def _initialise(module: nn.Module, library: GroundingDinoConfig) -> None:
    """The library's initialisation of every part of ``module``, down to the linear layers."""
    module.apply(GroundingDinoPreTrainedModel(library)._init_weights)


def _library_config(config: MlmaConfig) -> GroundingDinoConfig:
    """The sizes as the library's layers read them."""
    return GroundingDinoConfig(
        d_model=config.width,
        num_feature_levels=LEVELS,
        encoder_n_points=config.points,
        encoder_attention_heads=config.heads,
        encoder_ffn_dim=config.ffn,
        activation_function="relu",
        dropout=0.0,
        fusion_dropout=0.0,
        fusion_droppath=0.0,
        text_enhancer_dropout=0.0,
        disable_custom_kernels=True,  # compiled ones are fetched from the hub
    )
