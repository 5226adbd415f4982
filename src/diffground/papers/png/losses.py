"""The losses of the PNG model (Li et al., section 3.4, equations 11 to 14).

Conventions that the equations leave open:

- Everything is averaged over the real phrases of the batch (Mask2Former's number of masks); padded
  phrases, and those that a truncated caption lost, count nowhere. A batch without any real phrase
  has loss 0. Where a step's batch is shared out over accumulation rounds and processes, the loop
  weighs each part by its phrases, so that the mean is over those of the whole step.
- Equation 12 is applied in every adapter, its mask part to the combined masks too; equation 13
  after every decoder layer and before the first (Mask2Former's deep supervision). ``reduction``
  says how these intermediate terms are put together: ``sum``, as the equations read, or ``mean``;
  the term of the head's own prediction always counts once.
- The category ``c*`` of a plural phrase that spans several is the one with the most pixels
  (:func:`~diffground.papers.png.narratives.phrase_categories`). There is no class "nothing":
  every query is a phrase, and every phrase has a segment.
- The inner product of the rows without a decoder has no equation; its masks are learned by the
  same mask loss.
- Equation 11 has no term for pixels outside the phrase (``diffusion_ce: paper``). None is missing:
  the maps are a softmax over phrases, so it is the cross entropy of each pixel's phrase; pixels of
  no phrase are simply not supervised. ``binary`` adds the term ``(1 - y) log(1 - p)``.
- Targets are the share of a cell that the mask covers (area averages), in [0, 1].
- BCE and Dice are those of :mod:`diffground.masks.mask_loss`, ``L_mask`` of equation 12.

``B`` batch, ``K`` phrases, ``M`` real phrases, ``P`` pixels or points, ``S`` sites.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final, Literal

import torch
import torch.nn.functional as F
from torch import Tensor

from diffground.masks.mask_loss import mask_loss
from diffground.papers.png.config import LossConfig
from diffground.papers.png.heads import PngOutputs

# Raised when the same outputs have other losses.
CODE_VERSION: Final = 1

EPSILON = 1e-6  # added inside a logarithm: a map may be exactly 0 where a softmax underflows


def png_losses(
    outputs: PngOutputs, targets: Tensor, categories: Tensor, config: LossConfig
) -> dict[str, Tensor]:
    """All losses of a batch, as ``{"loss": their sum (eq. 14), name: scalar}``.

    Args:
        outputs: the heads' predictions; the heads that are there are supervised.
        targets: (B, K, h, w) in [0, 1], at the predictions' size.
        categories: (B, K) class index of each phrase; negative = unknown, not supervised.
    """
    valid = outputs.valid
    if not bool(valid.any()):
        return {"loss": _nothing(outputs)}
    masks = targets[valid].float()  # (M, h, w)
    labels = categories[valid]
    losses = {"diffusion_ce": diffusion_loss(outputs.diffusion[valid], masks, config.diffusion_ce)}
    total = losses["diffusion_ce"]
    parts: dict[str, dict[str, Tensor]] = {}
    if outputs.inner is not None:
        parts["inner"] = _mask_terms([], outputs.inner[valid], masks, config)
    if outputs.adapter is not None:
        steps = [logits[valid] for logits in outputs.adapter.sites]
        parts["adapter"] = _mask_terms(steps, outputs.adapter.combined[valid], masks, config)
        classes = [logits[valid] for logits in outputs.adapter.categories]
        parts["adapter"]["category"] = _category_term(classes, None, labels, config)
    if outputs.decoder is not None:
        steps = [logits[valid] for logits in outputs.decoder.layers]
        parts["decoder"] = _mask_terms(steps[:-1], steps[-1], masks, config)
        classes = [logits[valid] for logits in outputs.decoder.categories]
        parts["decoder"]["category"] = _category_term(classes[:-1], classes[-1], labels, config)
    for head, terms in parts.items():
        for name, value in terms.items():
            losses[f"{head}_{name}"] = value
            total = total + value
    return {"loss": total, **losses}


def _nothing(outputs: PngOutputs) -> Tensor:
    """Zero, on the graph of every head, for a batch in which no phrase is left."""
    found = [outputs.diffusion]
    if outputs.inner is not None:
        found.append(outputs.inner)
    if outputs.adapter is not None:
        found += [outputs.adapter.combined, *outputs.adapter.sites, *outputs.adapter.categories]
    if outputs.decoder is not None:
        found += [*outputs.decoder.layers, *outputs.decoder.categories]
    return torch.stack([tensor.sum() * 0.0 for tensor in found]).sum()


def _mask_terms(
    steps: Sequence[Tensor], final: Tensor, masks: Tensor, config: LossConfig
) -> dict[str, Tensor]:
    """BCE and Dice of the intermediate predictions and of the final one, ``(M, h, w)`` each."""
    bce, dice = mask_loss(final, masks, config.points)
    if steps:
        pairs = [mask_loss(step, masks, config.points) for step in steps]
        share = _share(len(steps), config)
        bce = bce + share * torch.stack([pair[0] for pair in pairs]).sum()
        dice = dice + share * torch.stack([pair[1] for pair in pairs]).sum()
    return {"bce": bce, "dice": dice}


def _category_term(
    steps: Sequence[Tensor], final: Tensor | None, labels: Tensor, config: LossConfig
) -> Tensor:
    """The same of the categories' cross entropy; logits (M, classes), labels (M,)."""
    terms = [category_loss(step, labels) for step in steps]
    total = _share(len(terms), config) * torch.stack(terms).sum()
    return total if final is None else total + category_loss(final, labels)


def _share(number: int, config: LossConfig) -> float:
    return 1.0 if config.reduction == "sum" else 1.0 / number


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
