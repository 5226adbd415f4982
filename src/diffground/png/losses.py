"""The losses of EIPA's training (Li et al., section 3.4, equations 11, 12 and 14).

Conventions that the equations leave open:

- Everything is averaged over the real phrases of the batch (Mask2Former's number of masks); padded
  phrases count nowhere. Equation 12 is summed over the adapter's sites, as it is applied in each,
  and its mask part is applied to the combined masks too. ``site_reduction: mean`` divides.
- Equation 11 has no term for pixels outside the phrase (``diffusion_ce: paper``). None is missing:
  the maps are a softmax over phrases, so it is the cross entropy of each pixel's phrase; pixels of
  no phrase are simply not supervised. ``binary`` adds the term ``(1 - y) log(1 - p)``.
- Targets are the share of a cell that the mask covers (area averages), in [0, 1].
- BCE and Dice are Mask2Former's (Dice with +1 above and below), from transformers.

``B`` batch, ``K`` phrases, ``M`` real phrases, ``P`` pixels or points, ``S`` sites.
"""

from __future__ import annotations

from typing import Literal

import torch
import torch.nn.functional as F
from pydantic import Field
from torch import Tensor

from diffground.config import Config
from diffground.png.heads import AdapterMasks

EPSILON = 1e-6  # added inside a logarithm: a map may be exactly 0 where a softmax underflows


class LossConfig(Config):
    """Weights and variants of the losses; the paper's is the plain sum."""

    diffusion_ce: Literal["paper", "binary"] = "paper"
    diffusion: float = Field(default=1.0, ge=0)  # weight of equation 11
    category: float = Field(default=1.0, ge=0)  # weights inside equation 12
    bce: float = Field(default=1.0, ge=0)
    dice: float = Field(default=1.0, ge=0)
    site_reduction: Literal["sum", "mean"] = "sum"
    points: int = Field(default=0, ge=0)  # points per mask for BCE and Dice; 0 = every cell
    oversample: float = Field(default=3.0, ge=1)  # Mask2Former's point sampling
    importance: float = Field(default=0.75, ge=0, le=1)


def png_losses(
    diffusion: Tensor,
    adapter: AdapterMasks | None,
    targets: Tensor,
    categories: Tensor,
    valid: Tensor,
    config: LossConfig,
) -> dict[str, Tensor]:
    """All losses of a batch, as ``{"loss": weighted sum, name: unweighted scalar}``.

    Args:
        diffusion: fused map of the Diffusion mask head, (B, K, h, w) in [0, 1].
        adapter: the adapter mask head's logits at the same size; None without adapter.
        targets: (B, K, h, w) in [0, 1].
        categories: (B, K) class index of each phrase; negative = unknown, not supervised.
        valid: (B, K), True for a real phrase; at least one is.
    """
    assert bool(valid.any()), "a batch without phrases"
    masks = targets[valid].float()  # (M, h, w)
    losses = {"diffusion_ce": diffusion_loss(diffusion[valid], masks, config.diffusion_ce)}
    total = config.diffusion * losses["diffusion_ce"]
    if adapter is not None:
        labels = categories[valid]
        category = [category_loss(logits[valid], labels) for logits in adapter.categories]
        parts = [mask_loss(logits[valid], masks, config) for logits in adapter.sites]
        share = 1.0 if config.site_reduction == "sum" else 1.0 / len(parts)
        bce, dice = mask_loss(adapter.combined[valid], masks, config)
        losses["category"] = share * torch.stack(category).sum()
        losses["bce"] = bce + share * torch.stack([part[0] for part in parts]).sum()
        losses["dice"] = dice + share * torch.stack([part[1] for part in parts]).sum()
        total = total + config.category * losses["category"]
        total = total + config.bce * losses["bce"] + config.dice * losses["dice"]
    return {"loss": total, **losses}


def diffusion_loss(maps: Tensor, masks: Tensor, variant: Literal["paper", "binary"]) -> Tensor:
    """Equation 11 on maps and masks ``(M, h, w)`` in [0, 1]: the mean over phrases and pixels."""
    maps = maps.float()
    loss = -masks * (maps + EPSILON).log()
    if variant == "binary":
        loss = loss - (1 - masks) * (1 - maps + EPSILON).log()
    return loss.mean()


def category_loss(logits: Tensor, labels: Tensor) -> Tensor:
    """``-log p(c*)`` of equation 12: logits (M, classes), labels (M,), negative ones ignored."""
    known = labels >= 0
    if not bool(known.any()):
        return logits.sum() * 0.0
    return F.cross_entropy(logits[known], labels[known])


def mask_loss(logits: Tensor, masks: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """``L_mask`` of equation 12: BCE and Dice of logits and masks ``(M, h, w)``."""
    from transformers.models.mask2former.modeling_mask2former import (
        dice_loss,
        sigmoid_cross_entropy_loss,
    )

    if 0 < config.points < logits[0].numel():
        points, labels = _sample(logits.float(), masks, config)
    else:
        points, labels = logits.float().flatten(1), masks.flatten(1)
    number = len(points)
    return sigmoid_cross_entropy_loss(points, labels, number), dice_loss(points, labels, number)


def _sample(logits: Tensor, masks: Tensor, config: LossConfig) -> tuple[Tensor, Tensor]:
    """Logits and targets ``(M, points)`` at random points, most of them where the mask is unsure.

    Mask2Former's importance sampling: of ``oversample`` times as many uniform points the
    ``importance`` share with the smallest ``|logit|`` is kept and filled up with uniform ones.
    """
    from transformers.models.mask2former.modeling_mask2former import sample_point

    number, device = len(logits), logits.device
    unsure = int(config.importance * config.points)
    with torch.no_grad():
        drawn = torch.rand(number, int(config.points * config.oversample), 2, device=device)
        values = sample_point(logits[:, None], drawn, align_corners=False)[:, 0]
        chosen = (-values.abs()).topk(unsure, dim=1).indices
        near = drawn.gather(1, chosen[..., None].expand(-1, -1, 2))
        rest = torch.rand(number, config.points - unsure, 2, device=device)
        points = torch.cat([near, rest], 1)
        labels = sample_point(masks[:, None], points, align_corners=False)[:, 0]
    return sample_point(logits[:, None], points, align_corners=False)[:, 0], labels
