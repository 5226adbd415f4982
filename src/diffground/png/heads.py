"""Two of the paper's mask heads (Li et al., sections 3.1, 3.2 and 3.4), both a handful of weights.

- The **Diffusion mask head**: the frozen UNet's cross-attention maps after the softmax over
  phrases, of all blocks, summed with learned weights. The weights are a softmax of learned logits
  that start equal, so that an untrained head is the mean over blocks (zero-shot).
- The **adapter mask head**: EIPA's cross-attention scores of all sites. The paper integrates the
  maps and does not say how. Here it is the scores before the softmax over pixels (which would make
  a large region's values small), before the attention mask (or a region that the Diffusion head
  missed could never come back), averaged over attention heads, with one learned scale and bias per
  site: the logits of that site's masks. The combined logits are their mean with learned weights.
  A linear classifier, shared over the sites, reads each phrase's category from ``R^(l)``.

``B`` batch, ``K`` phrases, ``S`` sites.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass

import torch
from torch import Tensor, nn

from diffground.png.maps import resize_maps


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


class AdapterHead(nn.Module):
    """Masks from EIPA's scores and categories from its phrases."""

    def __init__(self, sites: int, context_dim: int, classes: int) -> None:
        super().__init__()
        self.scales = nn.Parameter(torch.ones(sites))
        self.biases = nn.Parameter(torch.zeros(sites))
        self.logits = nn.Parameter(torch.zeros(sites))
        self.classifier = nn.Linear(context_dim, classes)

    def forward(
        self, phrases: Sequence[Tensor], scores: Sequence[Tensor], size: tuple[int, int]
    ) -> AdapterMasks:
        """Masks at ``size`` from S scores ``(B, K, h, w)`` and S phrase tensors ``(B, K, C)``."""
        masks = [
            resize_maps(self.scales[i] * score.float() + self.biases[i], size)
            for i, score in enumerate(scores)
        ]
        weights = self.logits.float().softmax(0)
        combined = sum((weights[i] * mask for i, mask in enumerate(masks)), torch.zeros(()))
        return AdapterMasks(
            torch.as_tensor(combined), masks, [self.classifier(r).float() for r in phrases]
        )
