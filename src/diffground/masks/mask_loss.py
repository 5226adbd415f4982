"""The losses of predicted masks: Mask2Former's binary cross entropy and Dice, at sampled points.

Both are averaged over the masks of the batch; Dice has +1 above and below. From transformers.

``M`` masks, ``P`` pixels or points.
"""

from __future__ import annotations

from typing import Final

import torch
from torch import Tensor

# Mask2Former's point sampling: how many times as many points are looked at, and the share of those
# taken that are the least sure.
OVERSAMPLE = 3
IMPORTANCE = 0.75
# Raised when the same masks have other losses.
CODE_VERSION: Final = 1


def mask_loss(logits: Tensor, masks: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """BCE and Dice of logits and masks ``(M, h, w)``, masks in [0, 1].

    Args:
        points: how many pixels of each mask are looked at; 0, or as many as there are: all.
    """
    from transformers.models.mask2former.modeling_mask2former import (
        dice_loss,
        sigmoid_cross_entropy_loss,
    )

    if 0 < points < logits[0].numel():
        found, labels = _sample(logits.float(), masks, points)
    else:
        found, labels = logits.float().flatten(1), masks.flatten(1)
    number = len(found)
    return sigmoid_cross_entropy_loss(found, labels, number), dice_loss(found, labels, number)


def _sample(logits: Tensor, masks: Tensor, points: int) -> tuple[Tensor, Tensor]:
    """Logits and targets ``(M, points)`` at random points, most of them where the mask is unsure.

    Mask2Former's importance sampling: of :data:`OVERSAMPLE` times as many uniform points the
    :data:`IMPORTANCE` share with the smallest ``|logit|`` is kept and filled up with uniform ones.
    """
    from transformers.models.mask2former.modeling_mask2former import sample_point

    number, device = len(logits), logits.device
    unsure = int(IMPORTANCE * points)
    with torch.no_grad():
        drawn = torch.rand(number, OVERSAMPLE * points, 2, device=device)
        values = sample_point(logits[:, None], drawn, align_corners=False)[:, 0]
        chosen = (-values.abs()).topk(unsure, dim=1).indices
        near = drawn.gather(1, chosen[..., None].expand(-1, -1, 2))
        rest = torch.rand(number, points - unsure, 2, device=device)
        places = torch.cat([near, rest], 1)
        labels = sample_point(masks[:, None], places, align_corners=False)[:, 0]
    return sample_point(logits[:, None], places, align_corners=False)[:, 0], labels
