"""The mask feature and the phrase decoder: the library's, the equations', and padding."""

from __future__ import annotations

import math

import pytest
import torch
from recipes import recipe
from torch import Tensor, nn
from torch.nn import functional
from transformers import Mask2FormerConfig
from transformers.models.mask2former.modeling_mask2former import (
    Mask2FormerMaskedAttentionDecoder,
    Mask2FormerPixelDecoder,
    Mask2FormerSinePositionEmbedding,
)

from diffground.errors import InputError
from diffground.papers.png.decoder import DecoderConfig, MaskFeature, PhraseDecoder, blocked_pixels

WIDTH, HEADS, CLASSES = 32, 4, 7
SIZES = [(8, 12), (4, 6), (2, 3)]  # fine to coarse


def build(layers: int = 4, seed: int = 0, **options: str) -> PhraseDecoder:
    torch.manual_seed(seed)
    config = recipe(DecoderConfig, layers=layers, heads=HEADS, ffn=48, **options)
    decoder = PhraseDecoder(WIDTH, CLASSES, config)
    with torch.no_grad():  # biases matter only when they are not zero
        for name, parameter in decoder.layers.named_parameters():
            if name.endswith("bias"):
                parameter.normal_(std=0.1)
    return decoder.eval()


class Inputs:
    """Random phrases and features of a batch of two, the second caption one phrase shorter."""

    def __init__(self, phrases: int = 3, seed: int = 1) -> None:
        generator = torch.Generator().manual_seed(seed)

        def draw(*shape: int) -> Tensor:
            return torch.randn(shape, generator=generator)

        self.queries = draw(2, phrases, WIDTH)
        self.images = [draw(2, WIDTH, *size) for size in SIZES]
        self.mask_feature = draw(2, WIDTH, 16, 24)
        self.valid = torch.ones(2, phrases, dtype=torch.bool)

    def __call__(self, decoder: PhraseDecoder):
        return decoder(self.queries, self.images, self.mask_feature, self.valid)


def test_shapes_and_deep_supervision():
    outputs = Inputs()(build(layers=4))
    assert [mask.shape for mask in outputs.layers] == [(2, 3, 16, 24)] * 5
    assert [logits.shape for logits in outputs.categories] == [(2, 3, CLASSES)] * 5
    assert outputs.final is outputs.layers[-1]
    with pytest.raises(InputError, match="30 is no multiple of 4"):
        PhraseDecoder(30, CLASSES, recipe(DecoderConfig, heads=5))


@torch.no_grad()
def test_without_padding_it_is_the_librarys_decoder():
    decoder, inputs = build(layers=5), Inputs()
    config = Mask2FormerConfig(
        hidden_dim=WIDTH,
        mask_feature_size=WIDTH,
        num_attention_heads=HEADS,
        dim_feedforward=48,
        dropout=0.0,
        decoder_layers=6,
    )
    library = Mask2FormerMaskedAttentionDecoder(config).eval()
    weights = {
        name.replace("mask_embedder", "mask_predictor.mask_embedder"): tensor
        for name, tensor in decoder.state_dict().items()
        if name.startswith(("layers.", "layernorm.", "mask_embedder."))
    }
    library.load_state_dict(weights)
    sine = Mask2FormerSinePositionEmbedding(WIDTH // 2, normalize=True)
    coarse_to_fine = inputs.images[::-1]
    expected = library(
        inputs_embeds=inputs.queries.transpose(0, 1),
        multi_stage_positional_embeddings=[
            sine(image.shape, image.device, image.dtype).flatten(2).permute(2, 0, 1)
            for image in coarse_to_fine
        ],
        pixel_embeddings=inputs.mask_feature,
        encoder_hidden_states=[
            (image + decoder.level_embed[i, :, None, None]).flatten(2).permute(2, 0, 1)
            for i, image in enumerate(coarse_to_fine)
        ],
        query_position_embeddings=torch.zeros(3, 2, WIDTH),
        feature_size_list=[image.shape[-2:] for image in coarse_to_fine],
        return_dict=True,
    )
    outputs = inputs(decoder)
    for mine, theirs in zip(outputs.layers, expected.masks_queries_logits, strict=True):
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)
    for mine, hidden in zip(outputs.categories, expected.intermediate_hidden_states, strict=True):
        theirs = decoder.classifier(hidden.transpose(0, 1))
        torch.testing.assert_close(mine, theirs, atol=1e-4, rtol=1e-4)


def heads_of(x: Tensor) -> Tensor:
    return x.unflatten(-1, (HEADS, -1))


def plain_attention(q: Tensor, k: Tensor, v: Tensor, blocked: Tensor) -> Tensor:
    """Softmax attention of projected (B, K, C) to (B, N, C), blocked (B, K, N)."""
    q, k, v = heads_of(q), heads_of(k), heads_of(v)
    scores = torch.einsum("bkhd,bnhd->bhkn", q, k) / math.sqrt(WIDTH // HEADS)
    weights = scores.masked_fill(blocked[:, None], -torch.inf).softmax(-1)
    return torch.einsum("bhkn,bnhd->bkhd", weights, v).flatten(2)


@pytest.mark.parametrize(("levels", "seen"), [("in_turn", [2]), ("together", [2, 1, 0])])
@torch.no_grad()
def test_one_layer_is_the_equation(levels, seen):
    decoder, inputs = build(layers=1, levels=levels), Inputs()
    inputs.valid[1, 2] = False
    layer = decoder.layers[0]
    outputs = inputs(decoder)

    # Masks before the first layer: MLP(norm(query)) . F_m
    norm = decoder.layernorm
    embedded = norm(inputs.queries)
    for number in range(3):
        linear = getattr(getattr(decoder.mask_embedder, str(number)), "0")
        embedded = linear(embedded).relu() if number < 2 else linear(embedded)
    masks = torch.einsum("bkc,bchw->bkhw", embedded, inputs.mask_feature)
    torch.testing.assert_close(outputs.layers[0], masks)

    # Masked attention to the coarsest level, or to the pixels of all levels.
    small = [functional.interpolate(masks, SIZES[i], mode="bilinear") for i in seen]
    blocked = torch.cat([mask.flatten(2) for mask in small], -1).sigmoid() < 0.5
    blocked[blocked.all(-1)] = False
    assert blocked.any() and not blocked.all()
    sine = Mask2FormerSinePositionEmbedding(WIDTH // 2, normalize=True)
    values, positions = [], []
    for row, level in enumerate(seen):
        image = inputs.images[level] + decoder.level_embed[row][None, :, None, None]
        values.append(image.flatten(2).transpose(1, 2))
        place = sine(image.shape, image.device, torch.float32)
        positions.append(place.flatten(2).transpose(1, 2))
    values = torch.cat(values, 1)
    keys = values + torch.cat(positions, 1)
    weights = layer.cross_attn.in_proj_weight.chunk(3)
    biases = layer.cross_attn.in_proj_bias.chunk(3)
    q, k, v = (
        x @ weight.T + bias
        for x, weight, bias in zip((inputs.queries, keys, values), weights, biases, strict=True)
    )
    x = inputs.queries + layer.cross_attn.out_proj(plain_attention(q, k, v, blocked))
    x = layer.cross_attn_layer_norm(x)
    # Self-attention among the valid phrases.
    own = layer.self_attn
    nobody = ~inputs.valid[:, None, :].expand(-1, 3, -1)
    mixed = plain_attention(own.q_proj(x), own.k_proj(x), own.v_proj(x), nobody)
    x = layer.self_attn_layer_norm(x + own.out_proj(mixed))
    x = layer.final_layer_norm(x + layer.fc2(layer.fc1(x).relu()))
    torch.testing.assert_close(outputs.categories[1], decoder.classifier(norm(x)))


def test_blocked_pixels():
    masks = torch.full((1, 3, 4, 4), -3.0)
    masks[0, 0, :, :2] = 3  # sees the left half
    masks[0, 1, 1, 1] = 0.1  # fades when resized: sees everything
    masks[0, 2] = 3
    blocked = blocked_pixels(masks.requires_grad_(), [(2, 2)])
    assert blocked.dtype == torch.bool and not blocked.requires_grad
    assert blocked[0].tolist() == [[False, True] * 2, [False] * 4, [False] * 4]
    both = blocked_pixels(masks, [(2, 2), (4, 4)])  # what it sees in one level is enough
    assert both[0, 1].tolist() == [True] * 4 + [index != 5 for index in range(16)]


def test_the_mini_decoder_sees_all_levels(conf):
    """And the paper's own visits them in turn, three times each."""
    read = {}
    for env in ("mini", "paper"):
        config = recipe(DecoderConfig, **conf(env)["parameters"]["png"]["model"]["decoder"])
        torch.manual_seed(0)
        decoder = PhraseDecoder(WIDTH, CLASSES, config.model_copy(update={"heads": HEADS}))
        inputs = Inputs()
        for image in inputs.images:
            image.requires_grad_()
        inputs(decoder).categories[-1].sum().backward()
        read[env] = [image.grad is not None and bool(image.grad.any()) for image in inputs.images]
        assert config.levels == {"mini": "together", "paper": "in_turn"}[env]
    assert read == {"mini": [True] * 3, "paper": [True] * 3}


@torch.no_grad()
def test_padding_changes_nothing():
    decoder, inputs = build(), Inputs(phrases=4)
    inputs.valid[1, 2:] = False
    outputs = inputs(decoder)
    longer = Inputs(phrases=4)
    junk = 100 * torch.randn(2, 5, WIDTH)
    longer.queries = torch.cat([inputs.queries, junk], 1)
    longer.queries[1, 2:4] = 50.0
    longer.valid = torch.cat([inputs.valid, torch.zeros(2, 5, dtype=torch.bool)], 1)
    padded = longer(decoder)
    for caption, count in ((0, 4), (1, 2)):
        alone = decoder(
            inputs.queries[caption : caption + 1, :count],
            [image[caption : caption + 1] for image in inputs.images],
            inputs.mask_feature[caption : caption + 1],
            inputs.valid[caption : caption + 1, :count],
        )
        for other in (padded, alone):
            item = 0 if other is alone else caption
            for name in ("layers", "categories"):
                for mine, theirs in zip(getattr(outputs, name), getattr(other, name), strict=True):
                    torch.testing.assert_close(
                        mine[caption, :count], theirs[item, :count], atol=1e-4, rtol=1e-4
                    )


@torch.no_grad()
def test_phrases_have_no_order():
    decoder, inputs = build(), Inputs()
    outputs = inputs(decoder)
    inputs.queries = inputs.queries.flip(1)
    torch.testing.assert_close(inputs(decoder).final.flip(1), outputs.final, atol=1e-4, rtol=1e-4)


def test_captions_without_a_phrase_are_finite():
    decoder, inputs = build(), Inputs()
    inputs.valid[0] = False
    inputs.valid[1, 1:] = False
    inputs.queries.requires_grad_()
    outputs = inputs(decoder.train())
    losses = [tensor.square().mean() for tensor in outputs.layers + outputs.categories]
    torch.stack(losses).sum().backward()
    assert all(torch.isfinite(mask).all() for mask in outputs.layers)
    assert inputs.queries.grad is not None and torch.isfinite(inputs.queries.grad).all()
    for name, parameter in decoder.named_parameters():
        assert parameter.grad is not None and torch.isfinite(parameter.grad).all(), name
    # Padding sends nothing to, and gets nothing from, the caption's one phrase.
    inputs.queries.grad = None
    inputs(decoder).final[1, 0].sum().backward()
    assert inputs.queries.grad[1, 0].abs().sum() > 0
    assert inputs.queries.grad[1, 1:].abs().sum() == 0


def test_bfloat16_autocast():
    decoder, inputs = build(layers=3), Inputs()
    head = MaskFeature(WIDTH, 12)
    fine = torch.randn(2, 12, 16, 24, requires_grad=True)
    inputs.valid[1, 1:] = False
    with torch.autocast("cpu", torch.bfloat16):
        inputs.mask_feature = head(inputs.images[0], fine)
        outputs = inputs(decoder)
    assert outputs.final.dtype == outputs.categories[0].dtype == torch.float32
    assert torch.isfinite(outputs.final).all()
    outputs.final.mean().backward()
    assert fine.grad is not None and torch.isfinite(fine.grad).all()
    with torch.no_grad():
        inputs.mask_feature = head(inputs.images[0], fine)
        exact = inputs(decoder).layers[0]
    assert (outputs.layers[0] - exact).abs().mean() < 0.02 * exact.abs().mean()


def test_initialisation_is_mask2formers():
    torch.manual_seed(0)
    decoder = PhraseDecoder(64, CLASSES, recipe(DecoderConfig, layers=2, heads=4, ffn=128))
    for name, parameter in decoder.layers.named_parameters():
        if parameter.ndim > 1:
            fan_out, fan_in = parameter.shape
            bound = math.sqrt(6 / (fan_in + fan_out))
            assert parameter.abs().max() <= bound, name
            assert parameter.std().item() == pytest.approx(bound / math.sqrt(3), rel=0.1), name
        else:
            assert (parameter == (0.0 if name.endswith("bias") else 1.0)).all(), name
    assert decoder.level_embed.std().item() == pytest.approx(1, rel=0.2)


@torch.no_grad()
def test_mask_feature_is_mask2formers_pyramid_step():
    """Against the library's pixel decoder without its encoder's layers."""
    torch.manual_seed(0)
    config = Mask2FormerConfig(
        feature_size=WIDTH, mask_feature_size=WIDTH, num_attention_heads=HEADS, encoder_layers=1
    )
    library = Mask2FormerPixelDecoder(config, feature_channels=[12, 16, 16, 16]).eval()
    nn.init.normal_(library.level_embed)
    head = MaskFeature(WIDTH, 12).eval()
    ours = {"lateral": "adapter_1", "output": "layer_1", "projection": "mask_projection"}
    for mine, theirs in ours.items():
        getattr(head, mine).load_state_dict(getattr(library, theirs).state_dict())
    features = [torch.randn(2, 12, 16, 24)] + [torch.randn(2, 16, *size) for size in SIZES]
    outputs = library(features)
    coarse = outputs.multi_scale_features[-1]
    assert coarse.shape == (2, WIDTH, 8, 12)
    torch.testing.assert_close(head(coarse, features[0]), outputs.mask_features)
