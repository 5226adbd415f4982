"""The Diffusion, adapter and inner product mask heads."""

from __future__ import annotations

import pytest
import torch
from torch import nn

from diffground.attention.selfcross import minmax
from diffground.papers.png.heads import (
    AdapterHead,
    DiffusionHead,
    FrozenProductHead,
    LearnedProductHead,
)
from diffground.papers.png.map_operations import resize_maps

SIZES = [(8, 8), (4, 6), (4, 6), (8, 8)]


def maps() -> dict[str, torch.Tensor]:
    generator = torch.Generator().manual_seed(0)
    return {f"s{i}": torch.rand(2, 3, *size, generator=generator) for i, size in enumerate(SIZES)}


def test_an_untrained_diffusion_head_is_the_mean():
    cross = maps()
    fused = DiffusionHead(list(cross))(cross, (16, 16))
    expected = torch.stack([resize_maps(m, (16, 16)) for m in cross.values()]).mean(0)
    torch.testing.assert_close(fused, expected)
    assert 0 <= fused.amin().item() and fused.amax().item() <= 1


def test_the_diffusion_head_weighs_by_a_softmax():
    cross = maps()
    head = DiffusionHead(list(cross))
    nn.init.normal_(head.logits)
    weights = head.logits.softmax(0)
    expected = sum(
        w * resize_maps(m, (16, 16)) for w, m in zip(weights, cross.values(), strict=True)
    )
    torch.testing.assert_close(head(cross, (16, 16)), expected)
    torch.testing.assert_close(head.weight("s2"), weights[2])


def test_it_ignores_maps_of_other_sites_and_misses_its_own():
    cross = maps()
    head = DiffusionHead(["s0", "s1"])
    expected = head({name: cross[name] for name in ("s0", "s1")}, (8, 8))
    torch.testing.assert_close(head(cross, (8, 8)), expected)
    with pytest.raises(KeyError):
        head({"s0": cross["s0"]}, (8, 8))


def test_adapter_head_scales_shifts_and_combines():
    scores = [tensor * 4 - 2 for tensor in maps().values()]
    phrases = [torch.randn(2, 3, 5) for _ in scores]
    head = AdapterHead(len(scores), 5, 7)
    for p in head.parameters():
        nn.init.normal_(p)
    masks = head(phrases, scores, (16, 16))
    expected = [
        resize_maps(head.scores.scales[i] * score + head.scores.biases[i], (16, 16))
        for i, score in enumerate(scores)
    ]
    for one, other in zip(masks.sites, expected, strict=True):
        torch.testing.assert_close(one, other)
    weights = head.scores.logits.softmax(0)
    combined = sum(w * m for w, m in zip(weights, expected, strict=True))
    torch.testing.assert_close(masks.combined, combined)
    assert [tuple(c.shape) for c in masks.categories] == [(2, 3, 7)] * len(scores)
    torch.testing.assert_close(masks.categories[1], head.classifier(phrases[1]))


def test_the_learned_product_written_plainly():
    head = LearnedProductHead(5, 6, 4)
    for p in head.parameters():
        nn.init.normal_(p)
    image, phrases, diffusion = (
        torch.randn(2, 5, 8, 6),
        torch.randn(2, 3, 6),
        torch.rand(2, 3, 8, 6),
    )
    logits = head(image, phrases, diffusion)
    kernel, shift = head.image.weight[:, :, 0, 0], head.image.bias
    for b, k, y, x in [(0, 0, 0, 0), (1, 2, 7, 5), (0, 1, 3, 2)]:
        pixel = kernel @ image[b, :, y, x] + shift
        phrase = head.phrase.weight @ phrases[b, k] + head.phrase.bias
        expected = pixel @ phrase / 2 + head.map_scale * diffusion[b, k, y, x] + head.bias
        torch.testing.assert_close(logits[b, k, y, x], expected)
    assert head(image, phrases, torch.rand(2, 3, 16, 12)).shape == (2, 3, 16, 12)


def test_the_frozen_product_combines_scores_and_map():
    scores = {name: tensor * 4 - 2 for name, tensor in maps().items()}
    head = FrozenProductHead(list(scores))
    for p in head.parameters():
        nn.init.normal_(p)
    diffusion = torch.rand(2, 3, 16, 16)
    fusion = head.scores
    weights = fusion.logits.softmax(0)
    expected = head.map_scale * diffusion
    for index, score in enumerate(scores.values()):
        shifted = fusion.scales[index] * score + fusion.biases[index]
        expected = expected + weights[index] * resize_maps(shifted, (16, 16))
    torch.testing.assert_close(head(scores, diffusion), expected)


def test_minmax_of_a_constant_map_is_finite():
    assert torch.equal(minmax(torch.ones(1, 1, 4, 4)), torch.zeros(1, 1, 4, 4))
