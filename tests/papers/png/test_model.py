"""The PNG model on a tiny diffusion model: data, training, saving."""

from __future__ import annotations

import json
from dataclasses import replace

import pytest
import tiny_png
import torch
from pydantic import ValidationError
from recipes import recipe

from diffground.backbone.probe import ProbeRequest
from diffground.errors import InputError
from diffground.io.files import seal_of
from diffground.papers.png.config import PngDataConfig, PngModelConfig
from diffground.papers.png.features import frozen_inputs
from diffground.papers.png.model import CONFIG, WEIGHTS, PngModel
from diffground.papers.png.narratives import UNKNOWN, cover, phrase_categories

STATIC = {"insertion": "none", "decode": False}  # zero-shot static prompting


# --- data ---------------------------------------------------------------------------------------


def test_batch_shapes_and_padding():
    batch = tiny_png.batch(0, 3)
    assert batch.images.shape == (2, 3, 64, 64)
    assert -1 <= batch.images.amin().item() and batch.images.amax().item() <= 1
    assert batch.targets.shape == (2, 2, 16, 16)
    assert [len(spans) for spans in batch.spans] == [2, 1]
    assert batch.categories.tolist() == [[0, 1], [2, UNKNOWN]]
    assert not batch.targets[1, 1].any()


def test_targets_are_the_covered_share():
    mask = torch.zeros(1, 8, 8, dtype=torch.bool)
    mask[0, :4, :2] = True
    torch.testing.assert_close(
        cover(mask.numpy(), (2, 2)), torch.tensor([[[0.5, 0.0], [0.0, 0.0]]])
    )
    torch.testing.assert_close(
        cover(mask.numpy(), (3, 3)).mean(), torch.tensor(8 / 64), atol=0.02, rtol=0
    )


def test_a_plural_across_categories_takes_the_largest():
    sample = tiny_png.samples()[3]
    assert [p.text for p in sample.phrases] == ["ball and sky"]
    assert phrase_categories(sample) == [150]  # the sky is larger than the ball


def test_data_sizes_must_fit_the_unet():
    with pytest.raises(ValidationError, match="image_size"):
        recipe(PngDataConfig, image_size=100)


# --- configuration ------------------------------------------------------------------------------


def test_configurations_that_make_no_sense_fail():
    with pytest.raises(ValidationError, match="insertion"):
        recipe(PngModelConfig, insertion="middle")
    with pytest.raises(ValidationError, match="head adapter, but the model has only"):
        recipe(PngModelConfig, insertion="none", head="adapter")
    with pytest.raises(ValidationError, match="decode is false"):
        recipe(PngModelConfig, decode=False, pretrained=True)


@pytest.mark.parametrize(
    ("options", "heads"),
    [
        (STATIC, ("diffusion",)),
        ({"decode": False}, ("diffusion", "adapter")),
        ({"decode": False, "inner_product": "frozen"}, ("diffusion", "adapter", "inner")),
        ({"insertion": "none"}, ("diffusion", "decoder")),
        ({}, ("diffusion", "adapter", "decoder")),
    ],
)
def test_the_last_head_predicts(options, heads):
    config = recipe(PngModelConfig, **options)
    assert config.heads == heads and config.final_head == heads[-1]
    assert config.learns == config.learns_fusion == (heads != ("diffusion",))


def test_zero_shot_static_prompting_has_nothing_to_train():
    static = tiny_png.model(**STATIC)
    assert not static.config.learns and not static.trainable_parameters()
    learned = tiny_png.model(**STATIC, fusion="learned")
    assert [p.numel() for p in learned.trainable_parameters()] == [16]


# --- forward ------------------------------------------------------------------------------------


def test_a_fresh_adapter_predicts_as_static_prompting():
    batch = tiny_png.batch(0, 1, 2)
    static = tiny_png.model(**STATIC).eval()(batch).diffusion
    dynamic = tiny_png.model().eval()(batch)
    torch.testing.assert_close(dynamic.diffusion, static, rtol=1e-4, atol=1e-5)
    assert dynamic.adapter is not None and len(dynamic.adapter.sites) == 15


def test_maps_share_out_each_pixel_among_the_phrases():
    outputs = tiny_png.model(**STATIC)(tiny_png.batch(0, 3))
    total = outputs.diffusion.sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert not outputs.diffusion[1, 1].any()  # padded
    torch.testing.assert_close(outputs.diffusion[1, 0], torch.ones(16, 16))  # the only phrase


@pytest.mark.parametrize("probability", ["minmax", "raw"])
@pytest.mark.parametrize("head", ["diffusion", "inner", "adapter", "decoder"])
def test_predictions_are_probabilities(head, probability):
    png = tiny_png.model(head=head, probability=probability, inner_product="frozen").eval()
    batch = tiny_png.batch(0, 1, 3)
    prob = png.predict(batch)
    assert prob.shape == (3, 2, 16, 16)
    assert 0 <= prob.amin().item() and prob.amax().item() <= 1
    assert not prob[2, 1].any()  # padded
    alone = png.predict(tiny_png.batch(3))[0, 0]
    torch.testing.assert_close(alone, prob[2, 0], rtol=1e-3, atol=1e-4)


def test_the_frozen_product_is_of_the_unets_own_queries_and_keys():
    png = tiny_png.model(insertion="none", decode=False, inner_product="frozen").eval()
    batch = tiny_png.batch(0)
    site = "up_blocks.2.attentions.1.transformer_blocks.0.attn2"
    inputs = frozen_inputs(png.backbone, batch, "per_sentence", "float16")
    request = ProbeRequest(
        cross=png.diffusion_head.sites, scores=(site,), features=(f"{site}.to_q",)
    )
    with torch.no_grad():
        found = png.backbone.probe(
            inputs.latents, 1, inputs.context, request, context_mask=inputs.valid
        )
        attn = png.backbone.unet.get_submodule(site)
        keys = attn.to_k(inputs.context)  # (B, K, C)
    product = torch.einsum("bchw,bkc->bkhw", found.features[f"{site}.to_q"], keys)
    torch.testing.assert_close(found.scores[site], product * attn.scale / attn.heads)


@pytest.mark.parametrize("mask_latent", ["denoised", "output", "clean"])
def test_every_source_of_the_mask_feature_trains(mask_latent):
    png = tiny_png.model(mask_latent=mask_latent).train()
    batch = tiny_png.batch(0, 1)
    tiny_png.losses(png(batch), batch)["loss"].backward()
    assert all(p.grad is not None and p.grad.isfinite().all() for p in png.parameters())


def test_captions_that_lose_all_their_phrases_have_a_defined_result():
    png = tiny_png.model(long_captions="truncate").eval()
    batch = tiny_png.batch(0, 1)
    long = "w " * 200 + "ball on the grass"
    spans = tuple((long.index(word), long.index(word) + len(word)) for word in ("ball", "grass"))
    lost = replace(batch, captions=(batch.captions[0], long), spans=(batch.spans[0], spans))
    prob = png.predict(lost)
    assert prob.isfinite().all() and prob[0].any() and not prob[1].any()
    torch.testing.assert_close(prob[0], png.predict(tiny_png.batch(0))[0])
    losses = tiny_png.losses(png.train()(lost), lost)
    losses["loss"].backward()
    assert all(p.grad is None or p.grad.isfinite().all() for p in png.parameters())
    nothing = replace(lost, captions=(long, long), spans=(spans, spans))
    assert tiny_png.losses(png(nothing), nothing)["loss"].item() == 0


def test_a_half_precision_backbone_trains_a_full_precision_adapter():
    from diffground.backbone.frozen import FrozenDiffusion

    folder = tiny_png.backbone().folder
    half = FrozenDiffusion.from_pretrained(folder, dtype=torch.bfloat16)
    png = tiny_png.model(half)
    batch = tiny_png.batch(0, 1)
    with torch.autocast("cpu", torch.bfloat16):
        loss = tiny_png.losses(png.train()(batch), batch)["loss"]
    loss.backward()
    assert all(p.dtype == torch.float32 and p.grad.isfinite().all() for p in png.parameters())
    prob = png.eval().predict(tiny_png.batch(0))  # without autocast
    assert prob.isfinite().all()


def test_seeded_noise_goes_by_sample_not_by_batch():
    noisy = tiny_png.model(**STATIC, noise="seeded", time_step=400)
    together = noisy.predict(tiny_png.batch(0, 1))
    torch.testing.assert_close(noisy.predict(tiny_png.batch(1)), together[1:], rtol=1e-3, atol=1e-3)
    clean = tiny_png.model(**STATIC, time_step=400).predict(tiny_png.batch(1))
    assert not torch.allclose(clean, together[1:], atol=1e-3)


# --- training -----------------------------------------------------------------------------------

# A key's bias adds the same to all scores of a query: softmax cannot see it, so its gradient is 0
# but for rounding. (EIPA's cross-attention's is seen by the adapter head, which reads the scores.)
UNSEEN = ("self_attention.k.bias", "self_attn.k_proj.bias", "self_attn.key.bias", "in_proj_bias")
# Bi-attention's gains start at 1e-4, and what is behind them learns accordingly slowly.
SLOW = "fusion.attn"


@pytest.mark.parametrize("insertion", ["none", "encoder", "decoder", "both"])
@pytest.mark.parametrize("rest", [{}, {"decode": False, "inner_product": "learned"}])
def test_after_one_step_gradients_reach_every_parameter(insertion, rest):
    png = tiny_png.model(insertion=insertion, **rest).train()
    batch = tiny_png.batch(0, 1, 2, 3)
    optimizer = torch.optim.AdamW(png.trainable_parameters(), 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        tiny_png.losses(png(batch), batch)["loss"].backward()
        optimizer.step()
    for name, parameter in png.named_parameters():
        assert parameter.grad is not None, name
        if not name.endswith(UNSEEN):
            assert parameter.grad.abs().max() > (0 if SLOW in name else 1e-9), name
    assert all(p.grad is None for p in png.backbone.parameters())


def test_training_overfits_one_batch_and_checkpointing_changes_nothing():
    batch = tiny_png.batch(0, 2)
    curves = []
    for checkpoint in (False, True):
        png = tiny_png.model(checkpoint=checkpoint).train()
        optimizer = torch.optim.AdamW(png.trainable_parameters(), 3e-3)
        curve = []
        for _ in range(20 if not checkpoint else 3):
            losses = tiny_png.losses(png(batch), batch)
            optimizer.zero_grad()
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(png.trainable_parameters(), 1.0)
            optimizer.step()
            curve.append(losses["loss"].item())
        curves.append(curve)
    assert curves[0][-1] < 0.65 * curves[0][0]
    assert curves[1] == pytest.approx(curves[0][:3], rel=1e-3)


def test_the_state_is_what_is_trained():
    names = tiny_png.model().state_dict()
    assert not any("unet" in name or "vae" in name for name in names)
    parts = {"diffusion_head", "eipa", "adapter_head", "mlma", "mask_feature", "decoder"}
    assert {name.split(".")[0] for name in names} == parts


# --- saving -------------------------------------------------------------------------------------


def test_a_saved_model_predicts_the_same(tmp_path):
    png = tiny_png.model(insertion="encoder").train()
    optimizer = torch.optim.AdamW(png.trainable_parameters(), 1e-2)
    batch = tiny_png.batch(0, 1)
    tiny_png.losses(png(batch), batch)["loss"].backward()
    optimizer.step()
    png.eval().save(tmp_path)
    loaded = PngModel.load(tmp_path, tiny_png.backbone())
    assert loaded.config == png.config and loaded.category_ids == png.category_ids
    torch.testing.assert_close(loaded.predict(batch), png.predict(batch))


def test_loading_says_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="no trained PNG model"):
        PngModel.load(tmp_path, tiny_png.backbone())
    tiny_png.model().save(tmp_path)
    with pytest.raises(InputError, match="backbone"):
        PngModel.load(tmp_path, tiny_png.backbone(seed=1))
    content = json.loads((tmp_path / CONFIG).read_text())
    content["model"]["insertion"] = "decoder"  # not what the weights are of
    (tmp_path / CONFIG).write_text(json.dumps(content))
    with pytest.raises(InputError, match=rf"{CONFIG}: sha256: .*damaged.*train with the same"):
        PngModel.load(tmp_path, tiny_png.backbone())
    seal_of(tmp_path / CONFIG).unlink()
    with pytest.raises(InputError, match=WEIGHTS):
        PngModel.load(tmp_path, tiny_png.backbone())
