"""The grounding module: a frozen UNet's features and class names in, a mask for each name out.

One module with the options in which three papers differ, at their public codes' sizes:

| :data:`~.module_sizes.MODULES` | paper | features | queries see | dropout | parameters |
|---|---|---|---|---|---|
| ``gd`` | 003's [22] | every layer, 25 maps | finest map, each other | 0 | 18,796,560 |
| ``improved`` | 003 | every block, 9 maps | finest map | 0.1 | 17,608,720 |
| ``iosd`` | 004 | every layer, 19 maps | each level in turn | 0.3 | 50,032,256 |

The switches of 004's Table 2: D is another diffusion model, S is ``pyramid``; F and P are a filter
and prompts, which concern the data. Dropout is on in training alone, where IOSD's public code has
it on while it is measured, and Grounded Diffusion's takes the norms of each single image.

``B`` images · ``N`` queries · ``C`` channels
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor, nn

from diffground.papers.grounded.encoder import MixBlock, VisualEncoder, resized
from diffground.papers.grounded.feature_maps import FeatureMap
from diffground.papers.grounded.fusion import Fusion
from diffground.papers.grounded.module_config import GroundingModuleConfig

# Raised when the same settings and weights give other masks, or a seed other weights.
CODE_VERSION: Final = 1


class GroundingModule(nn.Module):
    """Masks of class names in an image that a frozen UNet is generating.

    Args:
        maps: what it reads, :func:`~.feature_maps.feature_maps` of the UNet.
        text_width: channels of the text embeddings: 768 for Stable Diffusion 1.x, 1024 for 2.x,
            2048 for SDXL.
        latent_stride: image pixels per side of a latent's, :attr:`FrozenDiffusion.latent_stride`.
        config: its sizes and choices.

    Raises:
        InputError: the UNet has another number of levels than ``config.widths``.
    """

    def __init__(
        self,
        maps: Sequence[FeatureMap],
        text_width: int,
        latent_stride: int,
        config: GroundingModuleConfig,
    ) -> None:
        super().__init__()
        self.config, self.maps = config, tuple(maps)
        self.encoder = VisualEncoder(maps, config)
        finest = min(each.level for each in maps)
        self.stride = latent_stride * 2**finest
        widths = self.encoder.widths
        self.final: MixBlock | None = None
        if config.final_width is not None:
            self.final = MixBlock(widths[-1], config.final_width)
        out_width = config.final_width or widths[-1]
        self.fusion = Fusion(
            text_width, widths if config.pyramid else widths[-1:], out_width, config
        )

    def forward(self, features: Mapping[str, Tensor], queries: Tensor, valid: Tensor) -> Tensor:
        """Logits (B, N, H, W) at the image's size; of queries that are not valid they mean nothing.

        Args:
            features: see :meth:`VisualEncoder.forward`; any precision.
            queries: text embeddings (B, N, text_width), see :func:`~.queries.embed_queries`.
            valid: (B, N), True for real queries; the others are padding.

        Raises:
            InputError: features of another model, or none of a name.
        """
        levels = self.encoder(features)
        queries = queries.to(levels[-1].dtype)
        seen = levels if self.config.pyramid else levels[-1:]
        embeddings = self.fusion(queries, valid, seen)
        # Products first, then the size of the image: one map for each query, not hundreds.
        if self.final is not None:
            logits = self.final.products(levels[-1], embeddings)
        else:
            logits = torch.einsum("bnc,bchw->bnhw", embeddings, levels[-1])
        height, width = features[self.encoder.maps[-1][0].name].shape[-2:]
        return resized(logits, (height * self.stride, width * self.stride))
