"""Class maps: equal to the public code's steps, and independent of order, batches and company."""

from __future__ import annotations

import logging
from functools import cache
from typing import get_args

import numpy as np
import pytest
import torch
from random_model import random_model
from text2mask_reference import reference

from diffground.attention import baselines
from diffground.attention.aggregate import (
    ClassMaps,
    background_score,
    class_maps,
    image_scores,
    initial_labels,
    latent_maps,
    layers_read,
    scores,
)
from diffground.attention.baselines import daam_layers
from diffground.attention.config import AggregationConfig, Method
from diffground.attention.queries import Phrase, Prompt
from diffground.attention.selfcross import aggregate_cross, minmax
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import cross_sites
from diffground.backbone.probe import ProbeRequest
from diffground.errors import InputError
from diffground.seeds import derive_seed

TEXT = "a photo including cat, tv set, and sea."
PROMPT = Prompt(
    TEXT,
    (
        Phrase("cat", ((18, 21),)),
        Phrase("tv", ((23, 25), (26, 29))),
        Phrase("sea", ((35, 38),), True),
    ),
)
ALONE = [
    Prompt(f"a photo including {word}.", (Phrase(word, ((18, 18 + len(word)),)),))
    for word in ("cat", "tv")
]


@cache
def tiny() -> FrozenDiffusion:
    """Tiny, and its attention is not flat: random projections barely tell pixels apart."""
    model = random_model("tiny")
    for name, parameter in model.unet.named_parameters():
        if name.endswith(("to_q.weight", "to_k.weight")):
            parameter.mul_(3)
    return model


def picture(height: int = 375, width: int = 500) -> np.ndarray:
    random = np.random.default_rng(height)
    coarse = torch.from_numpy(random.random((1, 3, 6, 8)))
    smooth = torch.nn.functional.interpolate(coarse, (height, width), mode="bicubic").clamp(0, 1)
    return (smooth[0].permute(1, 2, 0).numpy() * 255).astype(np.uint8)


def maps(config: AggregationConfig, prompts=(PROMPT,), item="a", seed=42, **kwargs) -> ClassMaps:
    return class_maps(tiny(), picture(**kwargs), prompts, config, item=item, seed=seed)


def drawn_latents() -> torch.Tensor:
    """Those of a square picture under the item and seed of :func:`maps`."""
    pixels = torch.from_numpy(picture(128, 128)).permute(2, 0, 1)[None] / 127.5 - 1
    return tiny().encode_images(pixels, seeds=[derive_seed(42, "a", "vae")])


def token_indices(*spans: tuple[int, int]) -> list[int]:
    """The tokens of some words of ``TEXT``."""
    encoding = tiny().encode_prompts([TEXT])
    return sorted({t for span in spans for t in encoding.token_indices(0, span)})


@pytest.fixture(autouse=True)
def few_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(baselines, "DAAM_STEPS", 2)  # of 30: each is a pass


@pytest.mark.parametrize(
    ("height", "width", "noises", "threshold", "boxes"),
    [(375, 500, 1, 0.5, 0.2), (500, 333, 1, 0.35, 0.5), (500, 500, 3, 0.5, 0.2)],
)
def test_official_is_the_public_code(height, width, noises, threshold, boxes) -> None:
    config = AggregationConfig(
        noises=noises, background_threshold=threshold, box_threshold=boxes, compat="official"
    )
    expected = reference(
        tiny(),
        picture(height, width),
        PROMPT,
        item="a",
        seed=42,
        noises=noises,
        threshold=threshold,
        boxes=boxes,
        native=64,
    )
    found = maps(config, height=height, width=width)
    assert found.keys == ("cat", "tv")
    assert (expected["maps"] - found.maps).abs().max() < 1e-4
    assert (expected["high_res"] - image_scores(found, config)).abs().max() < 1e-4
    assert (expected["initial"] != initial_labels(found, config)).mean() < 1e-3


def test_paper_is_equation_3() -> None:
    """No min-max and no box before the propagation; labels of enlarged scores."""
    config = AggregationConfig(compat="paper")
    assert maps(config, height=128, width=128).maps.shape == (2, 4, 4)  # 88 px, stretched to 64
    wide = config.model_copy(update={"long_side": 128})
    found = maps(wide, height=128, width=128)
    model, table, step = tiny(), layers_read(tiny(), wide), wide.timestep
    result = model.probe(
        model.add_noise(drawn_latents(), step, [derive_seed(42, "a", "noise 0")]),
        step,
        model.encode_prompts([TEXT]).embeddings,
        ProbeRequest(cross=table.cross, self_=(table.self_layer,)),
    )
    tokens = [
        token_indices((18, 21)),
        token_indices((23, 25), (26, 29)),
    ]
    cross = aggregate_cross(result, table.cross, tokens, (8, 8)).flatten(1)  # (K, N)
    own = result.self_[table.self_layer][0]
    wanted = minmax((cross @ own.T @ own.T).unflatten(1, (8, 8)))
    # The min-max divides by a range that is a small part of the maps' size, and so does rounding.
    torch.testing.assert_close(found.maps, wanted, atol=1e-4, rtol=0)
    labels = image_scores(found, wide).argmax(dim=0).numpy()
    assert np.array_equal(initial_labels(found, wide), labels)
    assert found.maps.amin() == 0 and found.maps.amax() == 1


def test_batches_and_order_change_nothing() -> None:
    config = AggregationConfig(noises=3, long_side=128)
    whole = maps(config)
    for size in (1, 2):
        again = maps(config.model_copy(update={"noise_batch": size}))
        torch.testing.assert_close(again.maps, whole.maps, atol=1e-5, rtol=0)
    assert torch.equal(maps(config).maps, whole.maps)
    assert not torch.allclose(maps(config, item="b").maps, whole.maps)
    assert not torch.allclose(maps(config, seed=43).maps, whole.maps)


def test_noises_are_averaged_after_the_min_max() -> None:
    """And the first noise of several is the only one of one."""
    config = AggregationConfig(noises=2, long_side=128, method="cross")
    both, one = maps(config), maps(config.model_copy(update={"noises": 1}))
    assert one.maps.amax(dim=(1, 2)).tolist() == [1, 1]
    second = 2 * both.maps - one.maps
    assert second.amin(dim=(1, 2)).abs().max() < 1e-5
    assert (second.amax(dim=(1, 2)) - 1).abs().max() < 1e-5


def test_the_paper_averages_masks() -> None:
    """Each draw has its own background; the public code's is that of the mean of the maps."""
    both = AggregationConfig(noises=2, long_side=128, compat="paper")
    found = maps(both)
    one = maps(both.model_copy(update={"noises": 1}))
    other = 2 * found.maps - one.maps  # the second draw's
    assert found.peaks.shape == (2, *found.maps.shape[1:]) and one.peaks.shape[0] == 1
    mean = (scores(one, both) + scores(one.with_maps(other), both)) / 2
    torch.testing.assert_close(scores(found, both), mean, atol=1e-5, rtol=0)
    assert (scores(found, both) - scores(found.with_maps(found.maps), both)).abs().max() > 1e-3
    official = both.model_copy(update={"compat": "official"})
    averaged = maps(official)
    assert torch.equal(averaged.peaks[0], averaged.maps.amax(0)) and len(averaged.peaks) == 1


def test_masks_are_averaged_over_all_prompts() -> None:
    """A draw's background is scored of all its classes, whichever prompt asked for them."""
    both = AggregationConfig(noises=2, long_side=128, compat="paper")
    together = maps(both, ALONE)
    first, second = (maps(both, [prompt]) for prompt in ALONE)
    expected = torch.maximum(first.peaks, second.peaks)
    assert len(expected) == 2
    torch.testing.assert_close(together.peaks, expected, atol=1e-5, rtol=0)


def test_official_truncates_as_the_public_code_does(caplog: pytest.LogCaptureFixture) -> None:
    """Background words behind the 77 tokens are lost, and the classes are found as they are."""
    text = TEXT[:-1] + ", " + "grass, " * 40
    sea, late = PROMPT.phrases[2], (text.rindex("grass"), text.rindex("grass") + 5)
    prompt = Prompt(text, (*PROMPT.phrases[:2], sea, Phrase("grass", (late,), True)))
    expected = reference(tiny(), picture(), prompt, item="a", seed=42, native=64)
    with caplog.at_level(logging.WARNING):
        found = maps(AggregationConfig(), [prompt])
    assert "is read of grass (" in caplog.text
    assert (expected["maps"] - found.maps).abs().max() < 1e-4
    with pytest.raises(InputError, match="the text encoder reads 77"):
        maps(AggregationConfig(compat="paper"), [prompt])


def test_official_truncates_and_says_what_is_lost(caplog: pytest.LogCaptureFixture) -> None:
    """75 tokens are read: 72 letters, "cat", and two of the three of "dogs" (d, o, gs)."""
    config = AggregationConfig(long_side=128, noises=2)
    text = "a" * 72 + " cat dogs tv."
    spans = {
        word: (text.index(word), text.index(word) + len(word)) for word in ("cat", "dogs", "tv")
    }
    prompt = Prompt(text, tuple(Phrase(word, (span,)) for word, span in spans.items()))
    with caplog.at_level(logging.WARNING):
        found = maps(config, [prompt])
    assert "only a part, is read of dogs, tv (compat paper" in caplog.text
    assert found.keys == ("cat", "dogs", "tv")
    assert (found.maps[2] == 0).all() and (found.cross[2] == 0).all()
    assert initial_labels(found, config).max() <= 2
    start = spans["dogs"][0]
    left = Prompt(text, (prompt.phrases[0], Phrase("do", ((start, start + 2),))))
    torch.testing.assert_close(found.maps[:2], maps(config, [left]).maps, atol=1e-5, rtol=0)
    caplog.clear()
    maps(config)
    assert not caplog.records, "nothing is lost of a short prompt"


def test_separate_prompts_are_independent_of_each_other() -> None:
    config = AggregationConfig(noises=2, noise_batch=3, long_side=128)
    both = maps(config, ALONE)
    assert both.keys == ("cat", "tv")
    for row, prompt in enumerate(ALONE):
        single = maps(config, [prompt])
        torch.testing.assert_close(single.maps[0], both.maps[row], atol=1e-5, rtol=0)
    only_words = Prompt("a photo including sea.", (Phrase("sea", ((18, 21),), True),))
    assert torch.equal(maps(config, [ALONE[0], only_words, ALONE[1]]).maps, both.maps)


@pytest.mark.parametrize("method", get_args(Method))
@pytest.mark.parametrize("size", [(128, 128), (90, 128)])
def test_every_method(method, size) -> None:
    config = AggregationConfig(method=method, noises=2, long_side=128)
    found = maps(config, height=size[0], width=size[1])
    stride = 8 if method.startswith("daam") else 16
    grid = (2, found.geometry.padded[0] // stride, found.geometry.padded[1] // stride)
    assert tuple(found.maps.shape) == tuple(found.cross.shape) == grid
    assert found.maps.dtype == torch.float32 and not found.maps.requires_grad
    assert found.maps.amin() >= 0 and found.maps.amax() <= 1
    assert image_scores(found, config).shape == (3, *size)
    assert initial_labels(found, config).max() <= 2


@pytest.mark.parametrize("method", ["selfcross", "daam", "daam_trajectory"])
def test_presence_is_that_of_the_probed_maps(method) -> None:
    """Each class's strongest twentieth over the mean of "a photo including , , and .", by hand."""
    config = AggregationConfig(method=method, noises=2, long_side=128, timestep=0)
    model, found = tiny(), maps(config, height=128, width=128)
    latents, encoding = drawn_latents(), model.encode_prompts([TEXT])
    classes = [token_indices((18, 21)), token_indices((23, 29))]
    words = token_indices((0, 17), (21, 22), (29, 30), (31, 34), (38, 39))
    if method == "selfcross":
        sites, size, resize = layers_read(model, config).cross, (8, 8), "bilinear"
    else:
        sites, size, resize = daam_layers(cross_sites(model.unet)), (16, 16), "bicubic"
    steps = (500, 0) if method == "daam_trajectory" else (0,)
    expected = torch.zeros(2)
    for draw in range(2):
        seeds = [derive_seed(42, "a", f"noise {draw}")]
        sums = None
        for step in steps:
            result = model.probe(
                model.add_noise(latents, step, seeds),
                step,
                encoding.embeddings,
                ProbeRequest(cross=sites, heads=sites),
            )
            one = [result.heads[site][0] for site in sites]
            sums = one if sums is None else [a + b for a, b in zip(sums, one, strict=True)]
        if method != "daam_trajectory":
            sums = [heads.mean(dim=0, keepdim=True) for heads in sums]
        heads = torch.cat(
            [
                torch.nn.functional.interpolate(maps_, size, mode=resize, align_corners=False)
                for maps_ in sums
            ]
        ).clamp_min(0)
        by_token = heads.mean(dim=0).flatten(1)
        count = round(by_token.shape[1] / 20)
        for row, of_class in enumerate(classes):
            strongest = by_token[of_class].mean(dim=0).sort(descending=True).values[:count]
            expected[row] += strongest.mean() / by_token[words].mean() / 2
    torch.testing.assert_close(found.presence, expected, rtol=1e-4, atol=1e-4)


def test_presence_where_it_is_not_known() -> None:
    config = AggregationConfig(long_side=128)
    alone = Prompt("cat", (Phrase("cat", ((0, 3),)),))
    assert maps(config, [alone]).presence.isnan().all(), "no word to compare it with"
    phrases = (Phrase("cat", ((2, 5),)), Phrase("dog", ((327, 330),)))
    cut = Prompt("a cat, " + "sea " * 80 + "dog.", phrases)
    assert maps(config, [cut]).presence.isnan().tolist() == [False, True]


def test_daam_over_a_trajectory_has_its_own_time_steps(monkeypatch: pytest.MonkeyPatch) -> None:
    config = AggregationConfig(method="daam_trajectory", long_side=128)
    found = maps(config)
    assert torch.equal(maps(config.model_copy(update={"timestep": 7})).maps, found.maps)
    monkeypatch.setattr(baselines, "DAAM_STEPS", 3)
    assert not torch.allclose(maps(config).maps, found.maps)


def test_cross_and_selfcross_together() -> None:
    config = AggregationConfig(long_side=128)
    alone, cross, both = (
        maps(config.model_copy(update={"method": method})).maps
        for method in ("selfcross", "cross", "cross+selfcross")
    )
    torch.testing.assert_close(both, (alone + cross) / 2)
    torch.testing.assert_close(maps(config).cross, cross)


def test_layers_by_the_papers_numbers() -> None:
    config = AggregationConfig(long_side=128, cross_layers=(4, 5, 6, 7, 8), self_layer=11)
    table = layers_read(tiny(), config)
    assert table == layers_read(tiny(), AggregationConfig())
    assert table.cross[2] == "mid_block.attentions.0.transformer_blocks.0.attn2"
    fine = config.model_copy(update={"self_layer": 13})
    assert maps(fine).maps.shape[-1] == 2 * maps(config).maps.shape[-1]
    with pytest.raises(InputError, match="0 to 15"):
        maps(config.model_copy(update={"self_layer": 16}))


def test_half_precision() -> None:
    """Maps stay float32 whatever the UNet's dtype is."""
    model = random_model("tiny", torch.bfloat16)
    config = AggregationConfig(long_side=128)
    found = class_maps(model, picture(), [PROMPT], config, item="a", seed=0)
    assert found.maps.dtype == torch.float32 and found.maps.isfinite().all()


def test_background() -> None:
    one = torch.tensor([[[0.3, 1.0]]])
    torch.testing.assert_close(background_score(one, 0.5, 2), torch.tensor([[0.49, 0.0]]))
    torch.testing.assert_close(background_score(one, 0.35, 2), torch.tensor([[0.16, 0.09]]))
    torch.testing.assert_close(background_score(one, 0.5, 1), torch.tensor([[0.7, 0.0]]))
    both = torch.cat([one, torch.tensor([[[0.3, 0.0]]])])
    torch.testing.assert_close(background_score(both, 0.5, 2), torch.tensor([[0.49, 0.5]]))


def test_bad_prompts() -> None:
    config, sea = AggregationConfig(long_side=128), Phrase("sea", ((18, 21),), True)
    with pytest.raises(InputError, match="no class to look for"):
        maps(config, [])
    with pytest.raises(InputError, match="no class to look for"):
        maps(config, [Prompt("a photo including sea.", (sea,))])
    with pytest.raises(InputError, match="more than once: cat"):
        maps(config, [ALONE[0], ALONE[0]])
    with pytest.raises(InputError, match="holds no text"):
        maps(config, [Prompt("a  b", (Phrase("b", ((1, 3),)),))])
    long = [Prompt("cat " * 80, (Phrase("cat", ((0, 3),)),))]
    with pytest.raises(InputError, match="the text encoder reads 77"):
        maps(config.model_copy(update={"compat": "paper"}), long)
    beyond = [Prompt("cat " * 80 + "dog", (Phrase("dog", ((320, 323),)),))]
    with pytest.raises(InputError, match="no class has room"):
        maps(config, beyond)


def test_latents_may_come_from_a_cache() -> None:
    config = AggregationConfig(long_side=128, compat="paper")
    from_image = maps(config, height=128, width=128)
    keys, found, cross, peaks, presence = latent_maps(
        tiny(), drawn_latents(), [PROMPT], config, item="a", seed=42
    )
    assert keys == from_image.keys
    torch.testing.assert_close(found, from_image.maps, atol=1e-5, rtol=0)
    torch.testing.assert_close(cross, from_image.cross, atol=1e-5, rtol=0)
    torch.testing.assert_close(peaks, from_image.peaks, atol=1e-5, rtol=0)
    torch.testing.assert_close(presence, from_image.presence)
