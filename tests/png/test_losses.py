"""Equations 11, 12 and 14 against their formulas written plainly."""

from __future__ import annotations

import math

import pytest
import torch
from pydantic import ValidationError

from diffground.png.heads import AdapterMasks
from diffground.png.losses import (
    LossConfig,
    category_loss,
    diffusion_loss,
    mask_loss,
    png_losses,
)

PAPER = LossConfig()


def masks(number: int = 3) -> torch.Tensor:
    return (torch.rand(number, 8, 6, generator=torch.Generator().manual_seed(3)) > 0.6).float()


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


def test_equation_11():
    maps, y = torch.rand(3, 8, 6), masks()
    total = 0.0
    for p, t in zip(maps.flatten().tolist(), y.flatten().tolist(), strict=True):
        total -= t * math.log(p)
    assert float(diffusion_loss(maps, y, "paper")) == pytest.approx(total / y.numel(), rel=1e-3)
    binary = torch.nn.functional.binary_cross_entropy(maps, y)
    torch.testing.assert_close(diffusion_loss(maps, y, "binary"), binary, rtol=1e-3, atol=1e-5)


def test_equation_11_is_finite_for_empty_and_full_maps():
    y = masks()
    for maps in (torch.zeros_like(y), torch.ones_like(y)):
        maps.requires_grad_()
        for variant in ("paper", "binary"):
            loss = diffusion_loss(maps, y, variant)
            (gradient,) = torch.autograd.grad(loss, maps)
            assert torch.isfinite(loss) and torch.isfinite(gradient).all()


def test_mask_loss_of_equation_12():
    logits, y = torch.randn(3, 8, 6) * 2, masks()
    bce, dice = mask_loss(logits, y, PAPER)
    expected = plain_mask_loss(logits, y)
    assert (float(bce), float(dice)) == pytest.approx(expected, rel=1e-4)


def test_sampled_points_estimate_a_constant_loss():
    y = torch.zeros(4, 16, 16)
    y[:, :, 8:] = 1.0
    logits = torch.full_like(y, -0.3)
    config = LossConfig(points=64, importance=0.0)
    for sampled, whole in zip(
        mask_loss(logits, y, config), mask_loss(logits, y, PAPER), strict=True
    ):
        assert float(sampled) == pytest.approx(float(whole), abs=0.08)


def test_sampled_points_seek_the_unsure_border():
    y = torch.zeros(2, 32, 32)
    logits = torch.full_like(y, -20.0)
    logits[:, :, 16] = 0.0  # only here is anything to lose
    uniform = mask_loss(logits, y, LossConfig(points=64, importance=0.0))[0]
    seeking = mask_loss(logits, y, LossConfig(points=64, importance=0.75))[0]
    assert float(seeking) > 1.5 * float(uniform)


def test_category_loss_ignores_unknown():
    logits, labels = torch.randn(3, 5), torch.tensor([2, -1, 4])
    expected = -(logits.log_softmax(-1)[0, 2] + logits.log_softmax(-1)[2, 4]) / 2
    torch.testing.assert_close(category_loss(logits, labels), expected)
    assert float(category_loss(logits, torch.full((3,), -1))) == 0.0


def outputs(sites: int = 2) -> tuple[torch.Tensor, AdapterMasks, torch.Tensor, torch.Tensor]:
    torch.manual_seed(4)
    diffusion = torch.rand(2, 3, 8, 6)
    adapter = AdapterMasks(
        torch.randn(2, 3, 8, 6),
        [torch.randn(2, 3, 8, 6) for _ in range(sites)],
        [torch.randn(2, 3, 5) for _ in range(sites)],
    )
    valid = torch.tensor([[True, True, False], [True, True, True]])
    categories = torch.tensor([[0, 4, -1], [2, 1, 1]])
    return diffusion, adapter, valid, categories


def test_the_total_is_the_plain_sum_over_heads_and_sites():
    diffusion, adapter, valid, categories = outputs()
    y = masks(6).view(2, 3, 8, 6)
    losses = png_losses(diffusion, adapter, y, categories, valid, PAPER)
    expected = float(diffusion_loss(diffusion[valid], y[valid], "paper"))
    for logits in [adapter.combined, *adapter.sites]:
        expected += sum(plain_mask_loss(logits[valid], y[valid]))
    for logits in adapter.categories:
        expected += float(category_loss(logits[valid], categories[valid]))
    assert float(losses["loss"]) == pytest.approx(expected, rel=1e-4)
    mean = png_losses(diffusion, adapter, y, categories, valid, LossConfig(site_reduction="mean"))
    assert float(mean["category"]) == pytest.approx(float(losses["category"]) / 2, rel=1e-5)


def test_padded_phrases_do_not_count():
    diffusion, adapter, valid, categories = outputs()
    y = masks(6).view(2, 3, 8, 6)
    before = png_losses(diffusion, adapter, y, categories, valid, PAPER)["loss"]
    for tensor in (diffusion, y, adapter.combined, *adapter.sites, *adapter.categories):
        tensor[0, 2] = 0.77
    assert torch.equal(before, png_losses(diffusion, adapter, y, categories, valid, PAPER)["loss"])


def test_static_prompting_has_equation_11_alone():
    diffusion, _, valid, categories = outputs()
    losses = png_losses(diffusion, None, masks(6).view(2, 3, 8, 6), categories, valid, PAPER)
    assert set(losses) == {"loss", "diffusion_ce"}


def test_weights():
    diffusion, adapter, valid, categories = outputs()
    y = masks(6).view(2, 3, 8, 6)
    only_dice = LossConfig(diffusion=0, category=0, bce=0, dice=2)
    losses = png_losses(diffusion, adapter, y, categories, valid, only_dice)
    torch.testing.assert_close(losses["loss"], 2 * losses["dice"])
    with pytest.raises(ValidationError):
        LossConfig(diffusion_ce="soft")
