"""What reaches what in MLMA: padding, levels, gradients; its precision and initialisation."""

from __future__ import annotations

import math

import pytest
import torch
from tiny_mlma import HEADS, POINTS, TEXT, VALID, B, K, flat, inputs, make
from torch import Tensor, nn

from diffground.papers.png.mlma import FUSION_SCALE

# Heads of 6 channels are slower in a compiled kernel that is not used here.
pytestmark = pytest.mark.filterwarnings("ignore:You'd better set embed_dim")


@torch.no_grad()
def test_padding_changes_nothing():
    model, (images, phrases) = make(layers=2), inputs()
    before = model(images, phrases, VALID)
    for values in (1e4, -3.0):
        changed = [x.masked_fill(~VALID[..., None], values) for x in phrases]
        for x, y in zip(flat(before), flat(model(images, changed, VALID)), strict=True):
            assert x.equal(y)
    longer = [torch.cat([x, torch.randn(B, 4, TEXT)], 1) for x in phrases]
    valid = torch.cat([VALID, torch.zeros(B, 4, dtype=torch.bool)], 1)
    after = model(images, longer, valid)
    for x, y in zip(before.images, after.images, strict=True):
        torch.testing.assert_close(x, y, atol=1e-5, rtol=1e-4)
    for x, y in zip(before.phrases, after.phrases, strict=True):
        torch.testing.assert_close(x, y[:, :K], atol=1e-5, rtol=1e-4)
        assert not y[:, K:].any() and not x[~VALID].any()
    order = torch.tensor([2, 0, 1])  # padding may be anywhere
    moved = model(images, [x[:, order] for x in phrases], VALID[:, order])
    for x, y in zip(before.phrases, moved.phrases, strict=True):
        torch.testing.assert_close(x[:, order], y, atol=1e-5, rtol=1e-4)


def test_a_caption_without_phrases():
    model, (images, phrases) = make(layers=2).train(), inputs()
    valid = torch.tensor([[True, True, False], [False] * 3])
    outputs = model(images, phrases, valid)
    sum(x.square().sum() for x in flat(outputs)).backward()
    assert all(x.isfinite().all() for x in flat(outputs))
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name
    assert not any(x[1].any() for x in outputs.phrases)
    # Its phrases say nothing to the image, whatever they are, and its neighbour is undisturbed.
    others = [torch.cat([x[:1], torch.randn(1, K, TEXT)]) for x in phrases]
    for x, y in zip(outputs.images, model(images, others, valid).images, strict=True):
        assert x.equal(y)
    for layer in model.layers:  # bi-attention adds nothing: as with a gain of 0
        nn.init.zeros_(layer.fusion.vision_param)
    silent = model(images, phrases, torch.tensor([[True] * 3] * 2))
    for x, y in zip(outputs.images, silent.images, strict=True):
        torch.testing.assert_close(x[1], y[1], atol=1e-5, rtol=1e-4)
        assert not torch.allclose(x[0], y[0], atol=1e-3)


def test_gradients_know_no_padding_and_no_other_caption():
    """The library takes the maximum of all scores off: neutral, for results and gradients."""
    model, (images, phrases) = make(layers=2), inputs()

    def gradients(x: list[Tensor], r: list[Tensor], valid: Tensor) -> tuple[Tensor, ...]:
        outputs = model(x, r, valid)
        loss = sum(y[:1].sin().sum() for y in outputs.images)
        loss = loss + sum(y[:1, :2].sin().sum() for y in outputs.phrases)
        return loss, *torch.autograd.grad(loss, list(model.parameters()))

    together = gradients(images, [20 * x for x in phrases], VALID)
    # The first caption has two phrases.
    alone = gradients([x[:1] for x in images], [20 * x[:1, :2] for x in phrases], VALID[:1, :2])
    for x, y in zip(together, alone, strict=True):
        torch.testing.assert_close(x, y, atol=2e-4, rtol=1e-3)


@torch.no_grad()
def test_levels_reach_each_other():
    model, (images, phrases) = make(), inputs()
    before = model(images, phrases, VALID)
    coarse_phrases = [*phrases[:2], phrases[2] + 1]
    after = model(images, coarse_phrases, VALID)
    assert (before.images[0] - after.images[0]).abs().max() > 1e-2  # R_5 to F̂_3
    assert (before.phrases[0] - after.phrases[0]).abs().max() > 1e-2  # R_5 to R̂_3
    fine_images = [images[0] * torch.linspace(0, 2, 6), *images[1:]]
    after = model(fine_images, phrases, VALID)
    assert (before.images[2] - after.images[2]).abs().max() > 1e-2  # F_3 to F̂_5
    assert (before.phrases[2] - after.phrases[2]).abs().max() > 1e-2  # F_3 to R̂_5


def test_every_parameter_gets_a_finite_gradient():
    model, (images, phrases) = make(randomised=False, layers=2).train(), inputs()
    outputs = model(images, phrases, VALID)
    # What the decoder reads: all images, and the phrases of 1/32.
    used = [*outputs.images, outputs.phrases[2][VALID]]
    sum((x * torch.randn_like(x)).sum() for x in used).backward()
    for name, parameter in model.named_parameters():
        assert parameter.grad is not None and parameter.grad.isfinite().all(), name


@torch.no_grad()
def test_autocast_and_half_features_do_not_change_its_precision():
    model, (images, phrases) = make(), inputs()
    halves = [x.bfloat16() for x in images], [x.bfloat16() for x in phrases]
    expected = model(*([x.float() for x in side] for side in halves), VALID)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        found = model(*halves, VALID)
    for x, y in zip(flat(expected), flat(found), strict=True):
        assert y.dtype == torch.float32 and x.equal(y)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16, torch.float64])
def test_other_precisions_of_the_parameters(dtype: torch.dtype):
    model, (images, phrases) = make().to(dtype), inputs()
    outputs = model(images, phrases, torch.tensor([[True, True, False], [False] * 3]))
    sum(x.square().mean() for x in flat(outputs)).backward()
    assert all(x.dtype == dtype and x.isfinite().all() for x in flat(outputs))
    assert all(p.grad is not None and p.grad.isfinite().all() for p in model.parameters())


def test_initialisation():
    model = make(randomised=False, layers=2)
    for layer in model.layers:
        attn = layer.deformable.self_attn
        assert not attn.sampling_offsets.weight.any() and not attn.attention_weights.weight.any()
        offsets = attn.sampling_offsets.bias.view(HEADS, 3, POINTS, 2)
        directions = torch.tensor([[1.0, 0], [0, 1], [-1, 0], [0, -1]])  # one per head
        steps = torch.arange(1.0, POINTS + 1)
        fan = directions[:, None, None] * steps[:, None]
        torch.testing.assert_close(offsets, fan.expand_as(offsets), atol=1e-6, rtol=0)
        for gain in (layer.fusion.vision_param, layer.fusion.text_param):
            assert gain.eq(FUSION_SCALE).all()
    # As the library's own encoder initialises the same layers: weights of these have a rule of
    # their own, Xavier-uniform, all others are small normal ones.
    ruled = ("attn.value_proj", "attn.output_proj", "fusion.attn")
    for name, parameter in model.named_parameters():
        if parameter.dim() < 2 or not parameter.any():
            continue
        out, fan_in = parameter.shape[:2]
        spread = math.sqrt(2 / (out + fan_in)) if any(r in name for r in ruled) else 0.02
        spread = 1.0 if name.endswith("level_embed") else spread
        assert 0.75 * spread < parameter.std() < 1.25 * spread, name
    biases = [p for name, p in model.named_parameters() if name.endswith("proj.bias")]
    assert len(biases) >= 2 * 7 and not any(bias.any() for bias in biases)
    assert torch.equal(make(3, randomised=False).level_embed, make(3, randomised=False).level_embed)
