"""EIPA against its equations written plainly, and as part of a UNet pass."""

from __future__ import annotations

import math

import pytest
import tiny_png
import torch
from pydantic import ValidationError
from recipes import recipe
from torch import Tensor, nn

from diffground.backbone.layers import CROSS_SITES, cross_sites
from diffground.backbone.probe import ProbeRequest
from diffground.papers.png.eipa import EIPA, EipaConfig, PhraseAdapter, insertion_sites
from diffground.papers.png.heads import DiffusionHead

SD15_WIDTHS = dict(
    zip(CROSS_SITES, [320] * 2 + [640] * 2 + [1280] * 3 + [1280] * 3 + [640] * 3 + [320] * 3,
        strict=True)
)  # fmt: skip
B, K, N, C, V = 2, 3, 20, 16, 24


def attention(layer: nn.Module, query: Tensor, context: Tensor, blocked: Tensor | None) -> Tensor:
    """softmax(Q K^T / sqrt(d)) V, head by head."""
    q, k, v = layer.q(query), layer.k(context), layer.v(context)
    width = q.shape[-1] // layer.heads
    heads = []
    for head in range(layer.heads):
        own = slice(head * width, (head + 1) * width)
        scores = q[..., own] @ k[..., own].transpose(1, 2) / math.sqrt(width)
        if blocked is not None:
            scores = torch.where(blocked, torch.tensor(-1e30), scores)
        heads.append(scores.softmax(-1) @ v[..., own])
    return layer.o(torch.cat(heads, -1))


@pytest.mark.parametrize("seen", ["normalised", "raw"])
@pytest.mark.parametrize("norm", ["pre", "post"])
def test_equations_8_to_10(norm, seen):
    torch.manual_seed(0)
    sizes = {"zoom": 16, "heads": 4, "ffn": 8, "zoom_out_init": "default", "zoom_out_gain": 0.3}
    adapter = PhraseAdapter(C, V, recipe(EipaConfig, **sizes, norm=norm, features=seen))
    for p in adapter.norms.parameters():
        nn.init.normal_(p)
    phrases, features = torch.randn(B, K, C), torch.randn(B, N, V)
    padded = torch.tensor([[False, False, True], [False, False, False]])
    blocked = torch.rand(B, K, N) < 0.5

    r_itm_out, r_out, scores = adapter(phrases, features, padded, blocked)

    if seen == "normalised":
        centred = features - features.mean(-1, keepdim=True)
        features = centred / (centred.square().mean(-1, keepdim=True) + 1e-5).sqrt()
    first, second, third = adapter.norms
    r = adapter.zoom_in(phrases)
    keys = padded[:, None].expand(B, K, K)
    if norm == "pre":
        x = first(r)
        r_itm = attention(adapter.self_attention, x, x, keys) + r  # (8)
        query = second(r_itm)
        r_bar = attention(adapter.cross_attention, query, features, blocked) + r_itm  # (9)
        last = adapter.ffn(third(r_bar)) + r_bar  # (10)
    else:
        r_itm = query = first(attention(adapter.self_attention, r, r, keys) + r)
        r_bar = second(attention(adapter.cross_attention, r_itm, features, blocked) + r_itm)
        last = third(adapter.ffn(r_bar) + r_bar)
    torch.testing.assert_close(r_itm_out, phrases + 0.3 * adapter.zoom_out(r_itm))
    torch.testing.assert_close(r_out, phrases + 0.3 * adapter.zoom_out(last))
    q, k = adapter.cross_attention.q(query), adapter.cross_attention.k(features)
    # The head mean of scores is the whole inner product, scaled: masks do not depend on the heads.
    torch.testing.assert_close(scores, q @ k.transpose(1, 2) / (4 * math.sqrt(4)))


@pytest.mark.parametrize(("insertion", "count"), [("none", 0), ("encoder", 6), ("decoder", 9)])
def test_insertion_sites(insertion, count):
    sites = insertion_sites(CROSS_SITES, insertion)
    assert len(sites) == count
    assert insertion_sites(cross_sites(tiny_png.backbone().unet), insertion) == sites


def test_both_is_encoder_and_decoder_without_the_middle():
    sites = insertion_sites(CROSS_SITES, "both")
    assert len(sites) == 15
    parts = [insertion_sites(CROSS_SITES, part) for part in ("encoder", "decoder")]
    assert sites == parts[0] + parts[1]
    assert not any(site.startswith("mid") for site in sites)


def test_parameter_count_at_stable_diffusion_sizes():
    widths = {site: SD15_WIDTHS[site] for site in insertion_sites(CROSS_SITES, "both")}
    count = sum(p.numel() for p in EIPA(widths, 768, recipe(EipaConfig)).parameters())
    assert count == 3_365_600  # the paper: 3.37M
    assert round(count / 1e6, 2) == 3.37


def probe(adapter: EIPA | None, context: Tensor, mask: Tensor, checkpoint: bool = False):
    model = tiny_png.backbone()
    latents = torch.randn(len(context), 4, 8, 8, generator=torch.Generator().manual_seed(1))
    request = ProbeRequest(cross=cross_sites(model.unet))
    return model.probe(
        latents, 1, context, request, context_mask=mask, adapter=adapter, checkpoint=checkpoint
    )


def tiny_eipa(insertion="both", **options) -> EIPA:
    torch.manual_seed(0)
    unet = tiny_png.backbone().unet
    modules = dict(unet.named_modules())
    sites = insertion_sites(cross_sites(unet), insertion)
    widths = {site: modules[site].to_q.in_features for site in sites}
    config = recipe(EipaConfig, **{"zoom": 16, "heads": 4, "ffn": 8, **options})
    return EIPA(widths, tiny_png.TEXT, config, DiffusionHead(cross_sites(unet)).weight)


def phrases(*counts: int) -> tuple[Tensor, Tensor]:
    """Random phrases, padded to the largest count, and the mask of the real ones."""
    longest = max(counts)
    rows = torch.arange(longest)
    mask = torch.stack([rows < count for count in counts])
    torch.manual_seed(2)
    return torch.randn(len(counts), longest, tiny_png.TEXT) * mask[..., None], mask


@pytest.mark.parametrize("insertion", ["encoder", "decoder", "both"])
def test_zero_zoom_out_is_static_prompting(insertion):
    context, mask = phrases(2, 3)
    static, dynamic = probe(None, context, mask), probe(tiny_eipa(insertion), context, mask)
    for site, maps in static.cross.items():
        torch.testing.assert_close(dynamic.cross[site], maps, rtol=1e-4, atol=1e-6)


def test_a_random_zoom_out_changes_the_maps_from_the_first_adapter_on():
    context, mask = phrases(3)
    static = probe(None, context, mask).cross
    adapter = tiny_eipa("decoder", zoom_out_init="default")
    dynamic = probe(adapter, context, mask).cross
    for site, maps in static.items():
        same = torch.allclose(dynamic[site], maps, atol=1e-5)
        assert same == (site not in adapter.sites), site


def test_encoder_only_prompts_the_rest_with_its_last_phrases():
    context, mask = phrases(3)
    adapter = tiny_eipa("encoder", zoom_out_init="default")
    result = probe(adapter, context, mask)
    outputs = adapter.outputs(result.state)
    assert len(outputs.phrases) == len(outputs.scores) == 6
    torch.testing.assert_close(adapter.context(result.state), outputs.phrases[-1])
    assert not torch.allclose(
        result.cross[CROSS_SITES[-1]], probe(None, context, mask).cross[CROSS_SITES[-1]], atol=1e-5
    )


@pytest.mark.parametrize("attention_mask", ["accumulated", "previous", "none"])
def test_padding_does_not_change_a_caption(attention_mask):
    adapter = tiny_eipa(zoom_out_init="default", attention_mask=attention_mask)
    context, mask = phrases(2, 5)
    together = probe(adapter, context, mask)
    latents_of_first = context[:1, :2], mask[:1, :2]
    alone = probe(adapter, *latents_of_first)
    # The first item's latents differ with the batch only in the generator's later draws.
    for site in CROSS_SITES:
        torch.testing.assert_close(
            together.cross[site][:1, :2], alone.cross[site], rtol=1e-3, atol=1e-5
        )
        assert (together.cross[site][0, 2:] == 0).all()


def test_a_caption_with_one_phrase_and_one_with_none_stay_finite():
    adapter = tiny_eipa(zoom_out_init="default")
    context, mask = phrases(1, 1)
    mask[1] = False
    result = probe(adapter, context, mask)
    assert all(torch.isfinite(tensor).all() for tensor in result.state)
    torch.testing.assert_close(result.cross[CROSS_SITES[0]][0], torch.ones(1, 8, 8))


def test_masked_attention_sees_only_the_diffusion_heads_mask():
    adapter = tiny_eipa(zoom_out_init="default")
    site = adapter.sites[0]
    context, mask = phrases(2)
    state = adapter.start(context, mask)
    maps = torch.zeros(1, 2, 8, 8)
    maps[:, 0, :, :4] = 1.0  # phrase 0 on the left; phrase 1 nowhere: its map is constant
    state = adapter.after(site, maps, state)
    features = torch.randn(1, 64, tiny_png.CHANNELS[0])
    changed = features.unflatten(1, (8, 8)).clone()
    changed[:, :, 4:] += torch.randn(1, 8, 4, tiny_png.CHANNELS[0])
    before, after = (
        adapter.before(site, x, (8, 8), state)[1][0] for x in (features, changed.flatten(1, 2))
    )
    torch.testing.assert_close(before[:, 0], after[:, 0])  # blind to the right half
    assert not torch.allclose(before[:, 1], after[:, 1])  # all blocked: sees everything


def test_accumulated_mask_is_the_weighted_sum_and_previous_the_last():
    sites = cross_sites(tiny_png.backbone().unet)
    head = DiffusionHead(sites)
    nn.init.normal_(head.logits)
    maps = [torch.rand(1, 2, 8, 8), torch.rand(1, 2, 4, 4)]
    context, mask = phrases(2)
    for kind in ("accumulated", "previous"):
        adapter = tiny_eipa(attention_mask=kind)
        adapter.map_weights = head.weight
        state = adapter.start(context, mask)
        for site, one in zip(sites, maps, strict=False):
            state = adapter.after(site, one.requires_grad_(), state)
        assert not state[2].requires_grad
        weights = head.logits.softmax(0)
        larger = nn.functional.interpolate(maps[1], size=(8, 8), mode="bilinear")
        expected = weights[0] * maps[0] + weights[1] * larger if kind == "accumulated" else maps[1]
        torch.testing.assert_close(state[2], expected.detach())


def test_checkpointing_gives_the_same_gradients():
    context, mask = phrases(2, 3)
    adapter = tiny_eipa(zoom_out_init="default")
    gradients = []
    for checkpoint in (False, True):
        result = probe(adapter, context, mask, checkpoint)
        outputs = adapter.outputs(result.state)
        loss = sum(x.square().mean() for x in [*result.cross.values(), *outputs.scores])
        loss = loss + outputs.phrases[-1].square().mean()
        gradients.append(torch.autograd.grad(loss, list(adapter.parameters()), allow_unused=True))
    for one, other in zip(*gradients, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-6)


def test_wrong_choices_fail_when_configured():
    with pytest.raises(ValidationError, match="attention_mask"):
        recipe(EipaConfig, attention_mask="all")
    with pytest.raises(ValidationError, match="multiple of heads"):
        recipe(EipaConfig, zoom=60, heads=8)
