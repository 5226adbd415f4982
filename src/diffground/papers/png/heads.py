"""The light mask heads (Li et al., sections 3.1, 3.2, 3.4 and 4.4); the third is ``decoder.py``.

- The **Diffusion mask head**: the frozen UNet's cross-attention maps after the softmax over
  phrases, of all blocks, summed with learned weights. The weights are a softmax of learned logits
  that start equal, so that an untrained head is the mean over blocks (zero-shot).
- The **adapter mask head**: EIPA's cross-attention scores of all sites. The paper integrates the
  maps and does not say how. Here it is the scores before the softmax over pixels (which would make
  a large region's values small), before the attention mask (or a region that the Diffusion head
  missed could never come back), averaged over attention heads, with one learned scale and bias per
  site: the logits of that site's masks. The combined logits are their mean with learned weights.
  A linear classifier, shared over the sites, reads each phrase's category from ``R^(l)``.
- The **inner product** of image and phrase features, with which the rows without a decoder of the
  paper's Table 2 make masks "from both the cross-attention maps and the inner product". The
  channels of both differ, and the paper does not say what makes them fit. ``frozen`` takes the
  space in which the frozen UNet itself compares them: queries times keys of its cross-attention,
  before the softmax, combined over the blocks as the adapter head combines its scores, so that the
  baseline learns a few scalars only; section 4.4 speaks of EIPA as what introduces learnable
  parameters for the interaction. ``learned`` projects the image feature F_3 and the phrases to one
  width. The Diffusion head's map joins either with a learned scale.

``B`` batch, ``K`` phrases, ``S`` sites, ``D`` width of the product.
"""

from __future__ import annotations

import math
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffground.papers.png.decoder import DecoderMasks
from diffground.papers.png.map_operations import resize_maps


class DiffusionHead(nn.Module):
    """Fuses the UNet's cross maps. ``sites`` are attn2 names; other maps are ignored."""

    def __init__(self, sites: Sequence[str]) -> None:
        super().__init__()
        assert sites and len(set(sites)) == len(sites), sites
        self.sites = tuple(sites)
        self.logits = nn.Parameter(torch.zeros(len(self.sites)))

    def weights(self) -> Tensor:
        """The blocks' shares, (S,), positive, of sum 1."""
        return self.logits.float().softmax(0)

    def weight(self, site: str) -> Tensor:
        """The share of one block, a scalar."""
        return self.weights()[self.sites.index(site)]

    def forward(self, cross: Mapping[str, Tensor], size: tuple[int, int]) -> Tensor:
        """The fused map ``(B, K, *size)`` in [0, 1] of maps ``(B, K, h, w)`` by attn2 name."""
        weights = self.weights()
        # Blocks of one size are summed before they are resized: the same sum, fewer large maps.
        sums: dict[tuple[int, int], Tensor] = {}
        for index, site in enumerate(self.sites):
            share = weights[index] * cross[site].float()
            here = (share.shape[-2], share.shape[-1])
            sums[here] = sums[here] + share if here in sums else share
        return torch.stack([resize_maps(maps, size) for maps in sums.values()]).sum(0)


@dataclass(frozen=True)
class AdapterMasks:
    """The adapter mask head's predictions, as logits."""

    combined: Tensor  # (B, K, h, w)
    sites: list[Tensor]  # S x (B, K, h, w)
    categories: list[Tensor]  # S x (B, K, classes)


class ScoreFusion(nn.Module):
    """Attention scores of several blocks as mask logits: scaled, shifted, averaged with weights."""

    def __init__(self, sites: int) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(sites))
        self.biases = nn.Parameter(torch.zeros(sites))
        self.logits = nn.Parameter(torch.zeros(sites))

    def forward(
        self, scores: Sequence[Tensor], size: tuple[int, int]
    ) -> tuple[Tensor, list[Tensor]]:
        """The combined logits ``(B, K, *size)`` and each block's, of S scores ``(B, K, h, w)``."""
        masks = [
            resize_maps(self.scales[i] * score.float() + self.biases[i], size)
            for i, score in enumerate(scores)
        ]
        weights = self.logits.float().softmax(0)
        combined = sum((weights[i] * mask for i, mask in enumerate(masks)), torch.zeros(()))
        return torch.as_tensor(combined), masks


class AdapterHead(nn.Module):
    """Masks from EIPA's scores and categories from its phrases."""

    def __init__(self, sites: int, context_dim: int, classes: int) -> None:
        super().__init__()
        self.scores = ScoreFusion(sites)
        self.classifier = nn.Linear(context_dim, classes)

    def forward(
        self, phrases: Sequence[Tensor], scores: Sequence[Tensor], size: tuple[int, int]
    ) -> AdapterMasks:
        """Masks at ``size`` from S scores ``(B, K, h, w)`` and S phrase tensors ``(B, K, C)``."""
        combined, masks = self.scores(scores, size)
        return AdapterMasks(combined, masks, [self.classifier(r).float() for r in phrases])


class FrozenProductHead(nn.Module):
    """Masks as the UNet's own products of pixels and phrases, and the Diffusion head's map."""

    def __init__(self, sites: Sequence[str]) -> None:
        super().__init__()
        self.sites = tuple(sites)
        self.scores = ScoreFusion(len(self.sites))
        self.map_scale = nn.Parameter(torch.ones(()))

    def forward(self, scores: Mapping[str, Tensor], diffusion: Tensor) -> Tensor:
        """Logits ``(B, K, h, w)`` of scores ``(B, K, h_l, w_l)`` by attn2 name.

        ``diffusion`` is the fused map ``(B, K, h, w)``, a pixel's share for each phrase.
        """
        size = (diffusion.shape[-2], diffusion.shape[-1])
        combined, _ = self.scores([scores[site] for site in self.sites], size)
        return combined + self.map_scale * diffusion


class LearnedProductHead(nn.Module):
    """Masks as the product of projected pixels and phrases, and the Diffusion head's map."""

    def __init__(self, image_width: int, context_dim: int, width: int) -> None:
        super().__init__()
        self.image = nn.Conv2d(image_width, width, kernel_size=1)
        self.phrase = nn.Linear(context_dim, width)
        self.map_scale = nn.Parameter(torch.ones(()))
        self.bias = nn.Parameter(torch.zeros(()))

    def forward(self, image: Tensor, phrases: Tensor, diffusion: Tensor) -> Tensor:
        """Logits ``(B, K, h, w)`` of features ``(B, C_v, h', w')``, phrases ``(B, K, C)``.

        ``diffusion`` is the fused map ``(B, K, h, w)``, a pixel's share for each phrase.
        """
        pixels = self.image(image.float())
        product = torch.einsum("bdhw,bkd->bkhw", pixels, self.phrase(phrases.float()))
        product = resize_maps(product / math.sqrt(pixels.shape[1]), diffusion.shape[-2:])
        return product + self.map_scale * diffusion + self.bias


@dataclass(frozen=True)
class PngOutputs:
    """All heads' predictions at the masks' size; those that a model lacks are None."""

    diffusion: Tensor  # (B, K, h, w) in [0, 1]
    valid: Tensor  # (B, K), True for phrases that exist and were encoded
    inner: Tensor | None = None  # (B, K, h, w) logits
    adapter: AdapterMasks | None = None
    decoder: DecoderMasks | None = None
    scores: tuple[Tensor, ...] = ()  # EIPA's cross-attention scores by site, (B, K, h_l, w_l)
