"""The losses of masks, written plainly."""

from __future__ import annotations

import math

import torch


def plain_mask_loss(logits: torch.Tensor, targets: torch.Tensor) -> tuple[float, float]:
    """BCE and Dice, pixel by pixel."""
    bce = dice = 0.0
    for logit, target in zip(logits.flatten(1).tolist(), targets.flatten(1).tolist(), strict=True):
        p = [1 / (1 + math.exp(-x)) for x in logit]
        bce -= sum(
            y * math.log(a) + (1 - y) * math.log(1 - a) for a, y in zip(p, target, strict=True)
        ) / len(p)
        overlap = sum(a * y for a, y in zip(p, target, strict=True))
        dice += 1 - (2 * overlap + 1) / (sum(p) + sum(target) + 1)
    return bce / len(logits), dice / len(logits)
