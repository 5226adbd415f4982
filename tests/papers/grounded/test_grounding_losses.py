"""The losses of grounding modules against their formulas."""

from __future__ import annotations

import math

import pytest
import torch
from plain_losses import plain_mask_loss

from diffground.papers.grounded.losses import grounding_loss
from diffground.papers.grounded.module_config import LossConfig


def batch():
    random = torch.Generator().manual_seed(5)
    logits = 2 * torch.randn(2, 3, 7, 5, generator=random)
    masks = torch.rand(2, 3, 7, 5, generator=random) > 0.6
    masks[0, 1] = False  # a class that the image lacks
    return logits, masks, torch.tensor([[True, True, False], [True, False, False]])


def sigmoid(x: float) -> float:
    return 1 / (1 + math.exp(-x))


def by_formula(logits, masks, loss: str, compat: str) -> float:
    """Of one mask, from the equations of the third paper, or from what its code does."""
    p = [sigmoid(x) for x in logits.flatten().tolist()]
    g = masks.flatten().double().tolist()
    bce, dice = plain_mask_loss(logits[None], masks[None].float())
    if compat == "official" and loss == "log_cosh":
        pairs = [(sigmoid(a), y) for a, y in zip(p, g, strict=True)]  # the sigmoid again
        bce = -sum(y * math.log(a) + (1 - y) * math.log(1 - a) for a, y in pairs) / len(p)
    elif compat == "official":
        overlap = sum(a * y for a, y in zip(p, g, strict=True))
        squares = sum(a * a for a in p) + sum(y * y for y in g)
        dice = 1 - (2 * overlap + 1) / (squares + 1)
    return {
        "bce": bce,
        "dice": dice,
        "dice_bce": dice + bce,
        "log_cosh": math.log(math.cosh(dice)) + bce,
    }[loss]


@pytest.mark.parametrize("compat", ["paper", "official"])
@pytest.mark.parametrize("loss", ["bce", "dice", "dice_bce", "log_cosh"])
def test_losses_are_those_of_the_formulas(loss, compat):
    logits, masks, valid = batch()
    found = grounding_loss(logits, masks, valid, LossConfig(loss=loss, compat=compat))
    pairs = zip(logits[valid], masks[valid], strict=True)
    each = [by_formula(x, y, loss, compat) for x, y in pairs]
    assert float(found) == pytest.approx(sum(each) / 3, rel=1e-5)


@pytest.mark.parametrize("inside", [True, False])
def test_two_sigmoids_leave_a_perfect_mask_a_loss(inside):
    masks = torch.full((1, 1, 8, 8), inside)
    logits = torch.where(masks, 50.0, -50.0)
    valid = torch.ones(1, 1, dtype=torch.bool)

    def loss(compat):
        return float(
            grounding_loss(logits, masks, valid, LossConfig(loss="log_cosh", compat=compat))
        )

    assert loss("paper") == pytest.approx(0.0, abs=1e-5)
    expected = math.log(1 + math.exp(-1)) if inside else math.log(2)
    assert loss("official") == pytest.approx(expected, abs=1e-5)


def test_no_real_query_has_no_loss_and_no_gradient():
    logits, masks, valid = batch()
    logits.requires_grad_()
    loss = grounding_loss(logits, masks, valid & False, LossConfig(loss="bce", compat="paper"))
    loss.backward()
    assert float(loss.detach()) == 0 and not bool(logits.grad.any())
