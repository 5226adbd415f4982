"""The losses of a grounding module's masks (003, section 3.6 and Table 4).

For each mask, with ``p`` its probabilities and ``g`` the truth, sums and means over its pixels::

    bce      = -mean(g log p + (1 - g) log(1 - p))
    dice     = 1 - (2 Σ p g + 1) / (Σ p + Σ g + 1)
    dice_bce = dice + bce
    log_cosh = log cosh(dice) + bce

then the mean over all real masks of the batch. (The public code adds up an image's masks instead,
which Adam does not see.) ``compat: official`` is the public code of 003, which differs in two
things: ``dice`` and ``dice_bce`` square the summands of Dice's denominator, and ``log_cosh`` hands
probabilities to a cross entropy that takes logits, so that the sigmoid is applied twice and even a
perfect mask costs log(1 + 1/e) = 0.313 inside and log 2 = 0.693 outside.

``B`` images · ``N`` queries · ``M`` real masks
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from diffground.masks.mask_loss import mask_loss
from diffground.papers.grounded.module_config import LossConfig

# Raised when the same masks have other losses.
CODE_VERSION: Final = 1


def grounding_loss(logits: Tensor, masks: Tensor, valid: Tensor, config: LossConfig) -> Tensor:
    """The loss of a batch, a scalar in float32; 0 if no query is real.

    Args:
        logits: (B, N, H, W).
        masks: (B, N, H, W), boolean or in [0, 1]; all zero for a class that the image lacks.
        valid: (B, N), True for real queries.
    """
    if not bool(valid.any()):
        return logits.float().sum() * 0.0
    found, truth = logits[valid].float(), masks[valid].float()
    # One mask at a time: log cosh is taken of each mask's Dice, not of their mean.
    pairs = [mask_loss(x[None], g[None], 0) for x, g in zip(found, truth, strict=True)]
    bce, dice = (torch.stack(terms) for terms in zip(*pairs, strict=True))
    if config.compat == "official":
        if config.loss == "log_cosh":
            again = functional.binary_cross_entropy_with_logits
            bce = again(found.sigmoid(), truth, reduction="none").mean(dim=(1, 2))
        else:
            dice = _squared_dice(found, truth)
    if config.loss == "bce":
        return bce.mean()
    if config.loss == "dice":
        return dice.mean()
    if config.loss == "dice_bce":
        return (dice + bce).mean()
    return (dice.cosh().log() + bce).mean()


def _squared_dice(logits: Tensor, masks: Tensor) -> Tensor:
    """Dice (M,) with squares in the denominator, as the public code has it."""
    p, g = logits.sigmoid().flatten(1), masks.flatten(1)
    return 1 - (2 * (p * g).sum(1) + 1) / (p.square().sum(1) + g.square().sum(1) + 1)
