"""The PNG model on a tiny diffusion model: data, training, evaluation, saving."""

from __future__ import annotations

import json

import pytest
import tiny_png
import torch
from pydantic import ValidationError

from diffground.errors import InputError
from diffground.png.data import UNKNOWN, PngDataConfig, PngDataset, cover, phrase_categories
from diffground.png.eipa import EipaConfig
from diffground.png.evaluate import PngEvalConfig, evaluate
from diffground.png.losses import LossConfig
from diffground.png.model import CONFIG, WEIGHTS, PngModel, PngModelConfig
from diffground.png.phrases import check_caption, cut_caption, encode_captions

TINY = EipaConfig(zoom=16, heads=4, ffn=8)


def model(**options) -> PngModel:
    config = PngModelConfig(**{"eipa": TINY, **options})
    backbone = tiny_png.backbone()  # made before the seed is set
    torch.manual_seed(0)
    return PngModel(backbone, config, tiny_png.benchmark().categories.ids)


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
        PngDataConfig(image_size=100)


# --- captions -----------------------------------------------------------------------------------


def words(texts):
    return [len(text.split()) for text in texts]


def test_long_captions_are_cut_between_words_at_full_stops():
    caption = "one two three. four five six seven. eight"
    pieces = cut_caption(caption, [(4, 13)], words, 4)
    assert [caption[a:b].strip() for a, b in pieces] == [
        "one two three.",
        "four five six seven.",
        "eight",
    ]


def test_a_phrase_is_never_cut():
    caption = "a b c the long phrase d"
    start = caption.index("the")
    pieces = cut_caption(caption, [(start, start + len("the long phrase"))], words, 4)
    assert "the long phrase" in " ".join(caption[a:b] for a, b in pieces)
    assert any("the long phrase" in caption[a:b] for a, b in pieces)
    with pytest.raises(InputError, match="too long"):
        cut_caption(caption, [(start, start + len("the long phrase"))], words, 2)


def test_chunks_give_every_phrase_its_embedding():
    backbone = tiny_png.backbone()
    piece = "a red ball is here on the grass. "  # 25 letters, a token each
    caption = piece * 4
    spans = [(i * len(piece) + 2, i * len(piece) + 10) for i in range(4)]
    with pytest.raises(InputError, match="tokens"):
        encode_captions(backbone, [caption], [spans], "error")
    embeddings, valid, pooled = encode_captions(
        backbone, ["a cat", caption], [[(2, 5)], spans], "chunk"
    )
    assert embeddings.shape == (2, 4, tiny_png.TEXT)
    assert valid.tolist() == [[True, False, False, False], [True] * 4]
    assert pooled is None
    first, _, _ = encode_captions(backbone, [(piece * 2).strip()], [spans[:2]], "error")
    torch.testing.assert_close(embeddings[1, :2], first[0], rtol=1e-4, atol=1e-5)
    short, _, _ = encode_captions(backbone, ["a cat"], [[(2, 5)]], "error")
    torch.testing.assert_close(embeddings[:1, :1], short)


def test_a_caption_can_be_checked_without_encoding_it():
    backbone = tiny_png.backbone()
    check_caption(backbone, "a cat", [(2, 5)], "chunk")
    for caption, spans in [("a cat", []), ("w" * 90, [(0, 90)]), ("a cat", [(1, 2)])]:
        with pytest.raises(InputError) as checked:
            check_caption(backbone, caption, spans, "chunk")
        with pytest.raises(InputError) as encoded:
            encode_captions(backbone, [caption], [spans], "chunk")
        assert str(checked.value) == str(encoded.value)


def test_a_caption_without_phrases_is_an_error():
    with pytest.raises(InputError, match="none to ground"):
        encode_captions(tiny_png.backbone(), ["a cat"], [[]], "chunk")


# --- configuration ------------------------------------------------------------------------------


def test_configurations_that_make_no_sense_fail():
    with pytest.raises(ValidationError, match="insertion"):
        PngModelConfig(insertion="middle")
    with pytest.raises(ValidationError, match="head adapter needs an adapter"):
        PngModelConfig(insertion="none", head="adapter")


def test_zero_shot_static_prompting_has_nothing_to_train():
    static = model(insertion="none")
    assert not static.config.learns and not static.trainable_parameters()
    learned = model(insertion="none", fusion="learned")
    assert [p.numel() for p in learned.trainable_parameters()] == [16]


# --- forward ------------------------------------------------------------------------------------


def test_a_fresh_adapter_predicts_as_static_prompting():
    batch = tiny_png.batch(0, 1, 2)
    static = model(insertion="none").eval()(batch).diffusion
    dynamic = model().eval()(batch)
    torch.testing.assert_close(dynamic.diffusion, static, rtol=1e-4, atol=1e-5)
    assert dynamic.adapter is not None and len(dynamic.adapter.sites) == 15


def test_maps_share_out_each_pixel_among_the_phrases():
    outputs = model(insertion="none")(tiny_png.batch(0, 3))
    total = outputs.diffusion.sum(1)
    torch.testing.assert_close(total, torch.ones_like(total))
    assert not outputs.diffusion[1, 1].any()  # padded
    torch.testing.assert_close(outputs.diffusion[1, 0], torch.ones(16, 16))  # the only phrase


@pytest.mark.parametrize("probability", ["minmax", "raw"])
@pytest.mark.parametrize("insertion", ["none", "both"])
def test_predictions_are_probabilities(insertion, probability):
    prob = model(insertion=insertion, head="diffusion", probability=probability).predict(
        tiny_png.batch(0, 1)
    )
    assert prob.shape == (2, 2, 16, 16)
    assert 0 <= prob.amin().item() and prob.amax().item() <= 1


def test_a_half_precision_backbone_trains_a_full_precision_adapter():
    from diffground.backbone.frozen import FrozenDiffusion

    folder = tiny_png.backbone().folder
    half = FrozenDiffusion.from_pretrained(folder, dtype=torch.bfloat16)
    png = PngModel(half, PngModelConfig(eipa=TINY), tiny_png.benchmark().categories.ids)
    with torch.autocast("cpu", torch.bfloat16):
        loss = png.train().loss(tiny_png.batch(0, 1), LossConfig())["loss"]
    loss.backward()
    assert all(p.dtype == torch.float32 and p.grad.isfinite().all() for p in png.parameters())
    prob = png.eval().predict(tiny_png.batch(0))  # without autocast
    assert prob.isfinite().all()


def test_seeded_noise_goes_by_sample_not_by_batch():
    noisy = model(insertion="none", noise="seeded", time_step=400)
    together = noisy.predict(tiny_png.batch(0, 1))
    torch.testing.assert_close(noisy.predict(tiny_png.batch(1)), together[1:], rtol=1e-3, atol=1e-3)
    clean = model(insertion="none", time_step=400).predict(tiny_png.batch(1))
    assert not torch.allclose(clean, together[1:], atol=1e-3)


# --- training -----------------------------------------------------------------------------------

# A key's bias adds the same to all scores of a query: softmax cannot see it, so its gradient is 0
# but for rounding. (Cross-attention's is seen by the adapter head, which reads the scores.)
UNSEEN = "self_attention.k.bias"


@pytest.mark.parametrize("insertion", ["encoder", "decoder", "both"])
def test_after_one_step_gradients_reach_every_parameter(insertion):
    png = model(insertion=insertion).train()
    batch = tiny_png.batch(0, 1, 2, 3)
    optimizer = torch.optim.AdamW(png.trainable_parameters(), 1e-2)
    for _ in range(2):
        optimizer.zero_grad()
        png.loss(batch, LossConfig())["loss"].backward()
        optimizer.step()
    for name, parameter in png.named_parameters():
        assert parameter.grad is not None, name
        if UNSEEN not in name:
            assert parameter.grad.abs().max() > 1e-9, name
    assert all(p.grad is None for p in png.backbone.parameters())


def test_training_overfits_one_batch_and_checkpointing_changes_nothing():
    batch = tiny_png.batch(0, 2)
    curves = []
    for checkpoint in (False, True):
        png = model(checkpoint=checkpoint).train()
        optimizer = torch.optim.AdamW(png.trainable_parameters(), 3e-3)
        curve = []
        for _ in range(20 if not checkpoint else 3):
            losses = png.loss(batch, LossConfig())
            optimizer.zero_grad()
            losses["loss"].backward()
            torch.nn.utils.clip_grad_norm_(png.trainable_parameters(), 1.0)
            optimizer.step()
            curve.append(losses["loss"].item())
        curves.append(curve)
    assert curves[0][-1] < 0.65 * curves[0][0]
    assert curves[1] == pytest.approx(curves[0][:3], rel=1e-3)


def test_the_state_is_what_is_trained():
    names = model().state_dict()
    assert not any("unet" in name or "vae" in name for name in names)
    assert {name.split(".")[0] for name in names} == {"diffusion_head", "eipa", "adapter_head"}


# --- saving -------------------------------------------------------------------------------------


def test_a_saved_model_predicts_the_same(tmp_path):
    png = model(insertion="encoder").train()
    optimizer = torch.optim.AdamW(png.trainable_parameters(), 1e-2)
    batch = tiny_png.batch(0, 1)
    png.loss(batch, LossConfig())["loss"].backward()
    optimizer.step()
    png.eval().save(tmp_path)
    loaded = PngModel.load(tmp_path, tiny_png.backbone())
    assert loaded.config == png.config and loaded.category_ids == png.category_ids
    torch.testing.assert_close(loaded.predict(batch), png.predict(batch))


def test_loading_says_what_is_wrong(tmp_path):
    with pytest.raises(InputError, match="no trained PNG model"):
        PngModel.load(tmp_path, tiny_png.backbone())
    model().save(tmp_path)
    with pytest.raises(InputError, match="backbone"):
        PngModel.load(tmp_path, tiny_png.backbone(seed=1))
    content = json.loads((tmp_path / CONFIG).read_text())
    content["model"]["insertion"] = "decoder"  # not what the weights are of
    (tmp_path / CONFIG).write_text(json.dumps(content))
    with pytest.raises(InputError, match=WEIGHTS):
        PngModel.load(tmp_path, tiny_png.backbone())


# --- evaluation ---------------------------------------------------------------------------------


def evaluated(png: PngModel, samples, **options):
    config = PngEvalConfig(**{"overlays": 2, **options})
    return evaluate(png, samples, tiny_png.benchmark().categories, tiny_png.DATA, config)


def test_recall_depends_on_neither_batch_size_nor_order():
    png, samples = model(head="diffusion"), tiny_png.samples()
    one = evaluated(png, samples, batch_size=1)
    other = evaluated(png, samples[::-1], batch_size=3)
    assert one.recall.phrases == other.recall.phrases == 7
    for group, value in one.recall.result().items():
        assert value == pytest.approx(other.recall.result()[group], abs=1e-3)
    assert [len(e.predictions) for e in (one, other)] == [2, 2]
    assert one.rows[0]["text"] == "ball" and one.rows[0]["thing"]
    assert one.predictions[0].prob.shape == (2, 16, 16)


def test_a_broken_image_is_skipped_and_reported(tmp_path):
    root = tiny_png.make_benchmark(tmp_path, ("val2017",))
    broken = next((root / "images/val2017").glob("*2.png"))
    broken.write_bytes(broken.read_bytes()[:100])
    from diffground.png.samples import PngBenchmark

    benchmark = PngBenchmark(root, "val2017")
    samples, _ = benchmark.read()
    png = model(insertion="none")
    result = evaluate(png, samples, benchmark.categories, tiny_png.DATA, PngEvalConfig())
    assert result.recall.phrases == 5
    assert [p.item for p in result.report.problems] == ["2_1"]
    with pytest.raises(InputError, match="corrupt"):
        PngDataset(samples, benchmark.categories, tiny_png.DATA)[1]


@pytest.mark.parametrize("protocol", ["original", "ppmn", "png_soft"])
def test_every_protocol_runs_with_a_threshold(protocol):
    png = model(insertion="none", threshold=0.3)
    result = evaluated(png, tiny_png.samples()[:1], protocol=protocol)
    assert result.recall.protocol == protocol
    assert 0 <= result.recall.result()["overall"] <= 100
