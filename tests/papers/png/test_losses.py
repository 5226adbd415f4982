"""Equations 11 to 14 against their formulas written plainly."""

from __future__ import annotations

import math
from dataclasses import replace

import pytest
import torch
from plain_losses import plain_mask_loss
from recipes import recipe

from diffground.papers.png.decoder import DecoderMasks
from diffground.papers.png.heads import AdapterMasks, PngOutputs
from diffground.papers.png.losses import (
    LossConfig,
    category_loss,
    diffusion_loss,
    png_losses,
)

PAPER = recipe(LossConfig)


def masks(number: int = 3) -> torch.Tensor:
    return (torch.rand(number, 8, 6, generator=torch.Generator().manual_seed(3)) > 0.6).float()


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


def test_category_loss_ignores_unknown():
    logits, labels = torch.randn(3, 5), torch.tensor([2, -1, 4])
    expected = -(logits.log_softmax(-1)[0, 2] + logits.log_softmax(-1)[2, 4]) / 2
    torch.testing.assert_close(category_loss(logits, labels), expected)
    assert float(category_loss(logits, torch.full((3,), -1))) == 0.0


CATEGORIES = torch.tensor([[0, 4, -1], [2, 1, 1]])
TARGETS = masks(6).view(2, 3, 8, 6)


def outputs(*heads: str, steps: int = 2) -> PngOutputs:
    """Random predictions of the Diffusion head and of ``heads``; one phrase is padded."""
    torch.manual_seed(4)
    logits = [torch.randn(2, 3, 8, 6) for _ in range(2 * steps + 2)]
    classes = [torch.randn(2, 3, 5) for _ in range(2 * steps)]
    adapter = AdapterMasks(logits[0], logits[1 : steps + 1], classes[:steps])
    decoder = DecoderMasks(logits[steps + 1 : 2 * steps + 1], classes[steps:])
    return PngOutputs(
        torch.rand(2, 3, 8, 6),
        torch.tensor([[True, True, False], [True, True, True]]),
        logits[-1] if "inner" in heads else None,
        adapter if "adapter" in heads else None,
        decoder if "decoder" in heads else None,
    )


def everything(predicted: PngOutputs) -> list[torch.Tensor]:
    found = [predicted.diffusion]
    if predicted.inner is not None:
        found.append(predicted.inner)
    if predicted.adapter is not None:
        found += [predicted.adapter.combined, *predicted.adapter.sites]
        found += predicted.adapter.categories
    if predicted.decoder is not None:
        found += [*predicted.decoder.layers, *predicted.decoder.categories]
    return found


def test_equation_14_is_the_plain_sum_over_heads_sites_and_layers():
    predicted = outputs("adapter", "decoder")
    losses = png_losses(predicted, TARGETS, CATEGORIES, PAPER)
    valid = predicted.valid
    expected = float(diffusion_loss(predicted.diffusion[valid], TARGETS[valid], "paper"))
    for logits in [
        predicted.adapter.combined,
        *predicted.adapter.sites,
        *predicted.decoder.layers,
    ]:
        expected += sum(plain_mask_loss(logits[valid], TARGETS[valid]))
    for logits in [*predicted.adapter.categories, *predicted.decoder.categories]:
        expected += float(category_loss(logits[valid], CATEGORIES[valid]))
    assert float(losses["loss"]) == pytest.approx(expected, rel=1e-4)


def test_the_mean_over_steps_counts_the_prediction_once():
    predicted = outputs("adapter", "decoder", steps=3)
    valid = predicted.valid
    losses = png_losses(predicted, TARGETS, CATEGORIES, recipe(LossConfig, reduction="mean"))
    bce = [plain_mask_loss(m[valid], TARGETS[valid])[0] for m in predicted.decoder.layers]
    assert float(losses["decoder_bce"]) == pytest.approx(sum(bce[:2]) / 2 + bce[2], rel=1e-4)
    dice = [plain_mask_loss(m[valid], TARGETS[valid])[1] for m in predicted.adapter.sites]
    final = plain_mask_loss(predicted.adapter.combined[valid], TARGETS[valid])[1]
    assert float(losses["adapter_dice"]) == pytest.approx(sum(dice) / 3 + final, rel=1e-4)
    classes = [
        float(category_loss(c[valid], CATEGORIES[valid])) for c in predicted.adapter.categories
    ]
    assert float(losses["adapter_category"]) == pytest.approx(sum(classes) / 3, rel=1e-5)


def test_padded_phrases_do_not_count():
    predicted, targets = outputs("inner", "adapter", "decoder"), TARGETS.clone()
    before = png_losses(predicted, targets, CATEGORIES, PAPER)["loss"]
    for tensor in (targets, *everything(predicted)):
        tensor[0, 2] = 0.77
    assert torch.equal(before, png_losses(predicted, targets, CATEGORIES, PAPER)["loss"])


def test_a_batch_without_any_phrase_teaches_nothing():
    predicted = outputs("inner", "adapter", "decoder")
    tensors = [tensor.requires_grad_() for tensor in everything(predicted)]
    losses = png_losses(
        replace(predicted, valid=torch.zeros(2, 3, dtype=torch.bool)), TARGETS, CATEGORIES, PAPER
    )
    assert set(losses) == {"loss"} and losses["loss"].item() == 0
    losses["loss"].backward()
    assert all(torch.equal(t.grad, torch.zeros_like(t)) for t in tensors)


def test_static_prompting_has_equation_11_alone():
    assert set(png_losses(outputs(), TARGETS, CATEGORIES, PAPER)) == {"loss", "diffusion_ce"}


def test_the_inner_product_has_the_mask_loss_alone():
    predicted = outputs("inner")
    losses = png_losses(predicted, TARGETS, CATEGORIES, PAPER)
    assert set(losses) == {"loss", "diffusion_ce", "inner_bce", "inner_dice"}
    expected = plain_mask_loss(predicted.inner[predicted.valid], TARGETS[predicted.valid])
    assert (float(losses["inner_bce"]), float(losses["inner_dice"])) == pytest.approx(
        expected, rel=1e-4
    )
