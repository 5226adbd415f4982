"""MLMA against its equations written plainly; its switches and sizes."""

from __future__ import annotations

import copy
import math

import pytest
import torch
from pydantic import ValidationError
from recipes import recipe
from tiny_mlma import HEADS, POINTS, SIZES, VALID, WIDTH, B, K, flat, inputs, make, only
from torch import Tensor, nn

from diffground.errors import InputError
from diffground.papers.png.mlma import MLMA, MlmaConfig, MlmaOutputs

# Heads of 6 channels are slower in a compiled kernel that is not used here.
pytestmark = pytest.mark.filterwarnings("ignore:You'd better set embed_dim")


def norm(x: Tensor, layer: nn.Module) -> Tensor:
    centred = x - x.mean(-1, keepdim=True)
    scaled = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    return scaled * layer.weight + layer.bias


def ffn(x: Tensor, layer: nn.Module, after: nn.Module) -> Tensor:
    """Post-norm: norm(x + W_2 relu(W_1 x))."""
    return norm(x + layer.fc2(layer.fc1(x).clamp(min=0)), after)


def projected(model: MLMA, images: list[Tensor], phrases: list[Tensor]) -> list[Tensor]:
    """Pixels (B, N, C) of 1/32, 1/16 and 1/8, and the phrases (B, K, C) of the same.

    Where phrases of different levels never meet, those of 1/32 alone.
    """
    pixels, texts = [], []
    for index, level in enumerate((2, 1, 0)):
        conv, group = model.image_projections[index]
        x = torch.einsum("bchw,dc->bhwd", images[level], conv.weight[:, :, 0, 0]) + conv.bias
        groups = math.gcd(32, WIDTH)
        grouped = x.unflatten(-1, (groups, -1))
        mean = grouped.mean((1, 2, 4), keepdim=True)
        variance = (grouped - mean).square().mean((1, 2, 4), keepdim=True)
        x = ((grouped - mean) / (variance + 1e-5).sqrt()).flatten(-2) * group.weight + group.bias
        pixels.append(x.flatten(1, 2))
        if index < len(model.phrase_projections):
            linear = model.phrase_projections[index]
            texts.append(phrases[level] @ linear.weight.T + linear.bias)
    return [torch.cat(pixels, 1), torch.cat(texts, 1)]


def compare_images(outputs: MlmaOutputs, expected: Tensor, row: int | slice = slice(None)) -> None:
    """Against pixels in the order 1/32, 1/16, 1/8."""
    found = [x.flatten(2).transpose(1, 2) for x in reversed(outputs.images)]
    assert [tuple(x.shape[-2:]) for x in outputs.images] == SIZES
    torch.testing.assert_close(torch.cat(found, 1)[row], expected, atol=1e-5, rtol=1e-4)


@torch.no_grad()
def test_bi_attention():
    model, (images, phrases) = only("bi_attention"), inputs()
    outputs = model(images, phrases, VALID)
    layer = model.layers[0].fusion
    attn, heads = layer.attn, HEADS // 2
    F, R = projected(model, images, phrases)
    for row in range(B):
        real = VALID[row].repeat(3)
        f, r = norm(F[row], layer.layer_norm_vision), norm(R[row][real], layer.layer_norm_text)
        q, k = attn.vision_proj(f), attn.text_proj(r)
        v_f, v_r = attn.values_vision_proj(f), attn.values_text_proj(r)
        to_f, to_r = [], []
        for head in torch.arange(q.shape[-1]).chunk(heads):
            A = q[:, head] @ k[:, head].T / math.sqrt(len(head))  # (N, K), once
            to_f.append(A.softmax(1) @ v_r[:, head])
            to_r.append(A.softmax(0).T @ v_f[:, head])
        f = f + layer.vision_param * attn.out_vision_proj(torch.cat(to_f, -1))
        r = r + layer.text_param * attn.out_text_proj(torch.cat(to_r, -1))
        compare_images(outputs, f, row)
        found = torch.cat(outputs.phrases[::-1], 1)[row]
        torch.testing.assert_close(found[real], r, atol=1e-5, rtol=1e-4)
        assert not found[~real].any()


def sine(size: tuple[int, int]) -> Tensor:
    """(h·w, C): half of the channels for y, half for x, both running over (0, 2π]."""
    quarter = torch.arange(WIDTH // 4) * 2 / (WIDTH // 2)
    rows = []
    for i in range(size[0]):
        for j in range(size[1]):
            angles = [
                2 * math.pi * (place + 1) / (length + 1e-6) / 10000**quarter
                for place, length in ((i, size[0]), (j, size[1]))
            ]
            rows.append(torch.cat([torch.stack((a.sin(), a.cos()), -1).flatten() for a in angles]))
    return torch.stack(rows)


def bilinear(value: Tensor, size: tuple[int, int], x: float, y: float) -> Tensor:
    """A map (h·w, c) at a place in pixels, of which (0.5, 0.5) is the first's centre; 0 outside."""
    total = torch.zeros(value.shape[-1])
    left, top = math.floor(x - 0.5), math.floor(y - 0.5)
    for i in (top, top + 1):
        for j in (left, left + 1):
            weight = (1 - abs(x - 0.5 - j)) * (1 - abs(y - 0.5 - i))
            if 0 <= i < size[0] and 0 <= j < size[1]:
                total = total + weight * value[i * size[1] + j]
    return total


@torch.no_grad()
def test_deformable_attention():
    model, (images, phrases) = only("deformable"), inputs()
    outputs = model(images, phrases, VALID)
    layer = model.layers[0].deformable
    attn, sizes = layer.self_attn, SIZES[::-1]
    F, R = projected(model, images, phrases)
    queries = F + torch.cat([sine(s) + e for s, e in zip(sizes, model.level_embed, strict=True)])
    centres = [((j + 0.5) / w, (i + 0.5) / h) for h, w in sizes for i in range(h) for j in range(w)]
    mixed = torch.zeros_like(F)
    outside = 0
    for b in range(B):
        values = attn.value_proj(F[b]).split([h * w for h, w in sizes])
        for n, (x, y) in enumerate(centres):
            offsets = attn.sampling_offsets(queries[b, n]).view(HEADS, 3, POINTS, 2).tolist()
            weights = attn.attention_weights(queries[b, n]).view(HEADS, 3 * POINTS).softmax(-1)
            for head, own in enumerate(torch.arange(WIDTH).chunk(HEADS)):
                for level, (h, w) in enumerate(sizes):
                    for point, (dx, dy) in enumerate(offsets[head][level]):
                        # Offsets are in pixels of the level that is looked at.
                        place = x * w + dx, y * h + dy
                        outside += not (0 <= place[0] <= w and 0 <= place[1] <= h)
                        sample = bilinear(values[level][:, own], (h, w), *place)
                        mixed[b, n, own] += weights[head, level * POINTS + point] * sample
    assert outside > 50, "the edges are not tested"
    F = norm(F + attn.output_proj(mixed), layer.self_attn_layer_norm)
    compare_images(outputs, ffn(F, layer, layer.final_layer_norm))
    expected = R * VALID[..., None]
    torch.testing.assert_close(torch.cat(outputs.phrases[::-1], 1), expected)


@torch.no_grad()
def test_self_attention():
    model, (images, phrases) = only("self_attention"), inputs()
    outputs = model(images, phrases, VALID)
    layer = model.layers[0].phrases
    F, R = projected(model, images, phrases)
    for row in range(B):
        real = VALID[row].repeat(3)
        r = R[row][real]
        placed = r + model.phrase_level_embed.repeat_interleave(int(VALID[row].sum()), 0)
        attn = layer.self_attn
        q, k, v = attn.query(placed), attn.key(placed), attn.value(r)
        mixed = [
            (q[:, head] @ k[:, head].T / math.sqrt(len(head))).softmax(-1) @ v[:, head]
            for head in torch.arange(WIDTH).chunk(HEADS // 2)
        ]
        r = norm(r + attn.out_proj(torch.cat(mixed, -1)), layer.layer_norm_before)
        found = torch.cat(outputs.phrases[::-1], 1)[row]
        expected = ffn(r, layer, layer.layer_norm_after)
        torch.testing.assert_close(found[real], expected, atol=1e-5, rtol=1e-4)
        assert not found[~real].any()
    compare_images(outputs, F)


@torch.no_grad()
def test_without_parts_it_is_the_projections():
    model, (images, phrases) = only("none", layers=4), inputs()
    names = {name.split(".")[0] for name, _ in model.named_parameters()}
    assert names == {"image_projections", "phrase_projections"}
    outputs = model(images, phrases, VALID)
    F, R = projected(model, images, phrases)
    compare_images(outputs, F)
    (coarse,) = outputs.phrases  # nothing would read the others, so they have no projection
    torch.testing.assert_close(coarse, R * VALID[..., None])


def test_checkpointing_changes_nothing():
    model, (images, phrases) = make(layers=2), inputs()
    results = []
    for checkpoint in (False, True):
        model.zero_grad()
        outputs = model(images, phrases, VALID, checkpoint=checkpoint)
        sum(x.square().sum() for x in [*outputs.images, *outputs.phrases]).backward()
        gradients = [p.grad.clone() for p in model.parameters() if p.grad is not None]
        results.append([*outputs.images, *outputs.phrases, *gradients])
    for plain, again in zip(*results, strict=True):
        torch.testing.assert_close(again, plain)


def test_a_layer_is_bi_attention_and_then_the_others():
    """Each layer of the whole model is the composition of the parts that were tested above."""
    whole, (images, phrases) = make(layers=2), inputs()
    pixels, texts = projected(whole, images, phrases)
    texts = texts * VALID.repeat(1, 3)[..., None]
    layout = whole._layout([torch.zeros(1, 1, *size) for size in SIZES[::-1]], VALID)
    for layer in whole.layers:
        for part in ("fusion", "deformable", "phrases"):
            alone = copy.deepcopy(layer)
            for other in {"fusion", "deformable", "phrases"} - {part}:
                setattr(alone, other, None)
            pixels, texts = alone(pixels, texts, layout)
    outputs = whole(images, phrases, VALID)
    compare_images(outputs, pixels)
    torch.testing.assert_close(torch.cat(outputs.phrases[::-1], 1), texts, atol=1e-5, rtol=1e-4)


@pytest.mark.parametrize(
    ("part", "module"),
    [("bi_attention", "fusion"), ("deformable", "deformable"), ("self_attention", "phrases")],
)
def test_a_part_that_is_off_has_no_parameters(part: str, module: str):
    here = {name for name, _ in make(layers=2).named_parameters()}
    without = {name for name, _ in make(layers=2, **{part: False}).named_parameters()}
    embedding = {"deformable": {"level_embed"}, "self_attention": {"phrase_level_embed"}}
    gone = {name for name in here if f".{module}." in name} | embedding.get(part, set())
    assert without == here - gone and len(gone) > 10


def test_parameters_at_the_papers_sizes():
    """SD 1.x has 320, 640 and 1280 channels at 1/8, 1/16 and 1/32, and texts of 768."""
    model = MLMA((320, 640, 1280), 768, recipe(MlmaConfig))
    count = {
        name: sum(p.numel() for p in child.parameters()) for name, child in model.named_children()
    }
    C, ffn = 256, 1024
    linear = lambda fan_in, out: fan_in * out + out  # noqa: E731
    fusion = 4 * linear(C, ffn // 2) + 2 * linear(ffn // 2, C) + 4 * C + 2 * C
    samples = 8 * 3 * 4
    deformable = linear(C, 3 * samples) + 2 * linear(C, C) + 4 * C
    deformable += linear(C, ffn) + linear(ffn, C)
    phrases = 4 * linear(C, C) + linear(C, ffn // 2) + linear(ffn // 2, C) + 4 * C
    assert count["layers"] == 6 * (fusion + deformable + phrases) == 12_298_944
    assert count["image_projections"] == sum(linear(c, C) + 2 * C for c in (320, 640, 1280))
    assert count["phrase_projections"] == 3 * linear(768, C)
    assert sum(p.numel() for p in model.parameters()) == 13_466_816


@torch.no_grad()
@pytest.mark.parametrize("width", [12, 20, 36])
def test_widths_that_are_no_power_of_two(width: int):
    model, (images, phrases) = make(width=width), inputs()
    outputs = model(images, phrases, VALID)
    assert [x.shape[1] for x in outputs.images] == [width] * 3
    assert [tuple(x.shape) for x in outputs.phrases] == [(B, K, width)] * 3
    assert all(x.isfinite().all() for x in flat(outputs))


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"heads": 3}, "heads 3 is odd"),
        ({"width": 20, "heads": 8}, "width 20"),
        ({"width": 6, "heads": 2}, "no multiple of 4"),
        ({"ffn": 12, "heads": 8}, "ffn 12"),
        ({"bi_attn": True}, "bi_attn"),
    ],
)
def test_sizes_that_do_not_fit(changes: dict[str, object], words: str):
    with pytest.raises(ValidationError, match=words):
        recipe(MlmaConfig, **changes)


def test_three_levels_are_needed():
    with pytest.raises(InputError, match="image_widths: 2 levels"):
        MLMA((4, 8), 16, recipe(MlmaConfig))
