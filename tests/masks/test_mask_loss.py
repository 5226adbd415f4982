"""BCE and Dice of masks against their formulas, and at sampled points."""

from __future__ import annotations

import pytest
import torch
from plain_losses import plain_mask_loss

from diffground.masks import mask_loss as of_masks
from diffground.masks.mask_loss import mask_loss


def masks(number: int = 3) -> torch.Tensor:
    return (torch.rand(number, 8, 6, generator=torch.Generator().manual_seed(3)) > 0.6).float()


def test_mask_loss_of_equation_12():
    logits, y = torch.randn(3, 8, 6) * 2, masks()
    bce, dice = mask_loss(logits, y, 0)
    expected = plain_mask_loss(logits, y)
    assert (float(bce), float(dice)) == pytest.approx(expected, rel=1e-4)


def test_sampled_points_estimate_a_constant_loss(monkeypatch):
    monkeypatch.setattr(of_masks, "IMPORTANCE", 0.0)  # uniform
    y = torch.zeros(4, 16, 16)
    y[:, :, 8:] = 1.0
    logits = torch.full_like(y, -0.3)
    for sampled, whole in zip(mask_loss(logits, y, 64), mask_loss(logits, y, 0), strict=True):
        assert float(sampled) == pytest.approx(float(whole), abs=0.08)


def test_sampled_points_seek_the_unsure_border(monkeypatch):
    y = torch.zeros(2, 32, 32)
    logits = torch.full_like(y, -20.0)
    logits[:, :, 16] = 0.0  # only here is anything to lose
    torch.manual_seed(0)
    seeking = mask_loss(logits, y, 512)[0]
    monkeypatch.setattr(of_masks, "IMPORTANCE", 0.0)
    uniform = mask_loss(logits, y, 512)[0]
    assert float(seeking) > 1.5 * float(uniform)
