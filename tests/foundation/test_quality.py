"""The figures and pictures that judge the mini models."""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from recipes import recipe
from tiny_foundation import CANVAS, QUALITY, RECIPE

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.probe import ProbeRequest, ProbeResult
from diffground.foundation import localise, painting
from diffground.foundation.card import FIGURES, model_card
from diffground.foundation.config import FoundationRecipe, QualityConfig
from diffground.foundation.few_steps import assess_turbo
from diffground.foundation.fitting import Workshop
from diffground.foundation.localise import Located, argmax_iou, bare_names, measure, probe_scenes
from diffground.foundation.painting import found_names, found_shares, generate
from diffground.foundation.pictures import attention_grid, generation_grid
from diffground.foundation.prompts import PICTURES, bare, two_object_prompts
from diffground.foundation.quality import assess, judge_attention, judge_reconstructions
from diffground.foundation.scenes import captioned_scenes
from diffground.segmenters.instance import InstanceSegmenter
from diffground.world.config import WorldConfig
from diffground.world.scene import mixed_scene, rng_for, sample_scene
from diffground.world.vocabulary import BELOW, SETTINGS, THINGS

WORLD = recipe(WorldConfig)


@pytest.fixture(scope="module")
def figures(made: dict[str, Path]) -> dict[str, Any]:
    return assess(made["sd"], made["clip"], made["segmenter"], CANVAS, QUALITY)


def test_figures_are_means_over_worlds(made: dict[str, Path], figures: dict[str, Any]) -> None:
    """Each world's are what it has alone; beside the means stand their deviations."""
    worlds = figures["per_eval_seed"]
    assert list(worlds) == ["11", "12"] and worlds["11"] != worlds["12"]
    for name, value in worlds["11"].items():
        both = [value, worlds["12"][name]]
        assert figures[name] == pytest.approx(np.mean(both))
        assert figures["deviation"][name] == pytest.approx(abs(both[0] - both[1]) / np.sqrt(2))
        assert name in ("vae_psnr", "self_effective_positions") or 0 <= value
    assert 1 <= figures["self_effective_positions"] <= 64
    alone = QUALITY.model_copy(update={"eval_seeds": (12,)})
    again = assess(made["sd"], made["clip"], made["segmenter"], CANVAS, alone)
    assert again["per_eval_seed"]["12"] == worlds["12"] and again["deviation"] == {}
    assert all(again[name] == value for name, value in worlds["12"].items())


def test_the_papers_selfcross_is_always_measured(
    made: dict[str, Path], figures: dict[str, Any]
) -> None:
    """Whatever the settings are, which by default are the paper's."""
    base = recipe(QualityConfig)
    assert (base.iterations, base.sharpen) == localise.PAPER == (2, 1.0)
    for end in ("thing", "stuff"):
        assert figures[f"selfcross_{end}_iou_paper"] == figures[f"selfcross_{end}_iou"]
    other = QUALITY.model_copy(update={"iterations": 1, "sharpen": 4.0, "variants": ()})
    model = FrozenDiffusion.from_pretrained(made["sd"])
    found, ways = judge_attention(model, captioned_scenes(11, 32, CANVAS), other, 11)
    assert list(ways) == [(1, 4.0), (2, 1.0)]
    for end in ("thing", "stuff"):
        paper = figures["per_eval_seed"]["11"][f"selfcross_{end}_iou_paper"]
        assert found[f"selfcross_{end}_iou_paper"] == paper
    assert found["selfcross_thing_iou"] != found["selfcross_thing_iou_paper"]


def test_card_and_pictures(made: dict[str, Path], figures: dict[str, Any]) -> None:
    losses = Workshop(RECIPE, CANVAS, made["work"]).last_losses()
    turbo = assess_turbo(made["turbo"], made["segmenter"], figures, QUALITY)
    card = model_card(RECIPE, WORLD, losses, figures, turbo)
    assert f"Recipe `test` (`kedro run --pipelines foundation`): {RECIPE.cost}." in card
    assert "| diffusion, phase 1: t = 1000 u^0.5 | 2 |" in card
    assert "| diffusion, phase 2: t = 1000 u^1, 25% of prompts bare | 2 |" in card
    assert f"loss {losses['diffusion/phase-1']['loss']:.4g} |" in card
    assert "| figure | mean | deviation | seed 11 | seed 12 |" in card
    first, second = (figures["per_eval_seed"][seed]["vae_psnr"] for seed in ("11", "12"))
    assert f"| {figures['vae_psnr']:.3f} | {figures['deviation']['vae_psnr']:.3f} |" in card
    assert f"| {first:.3f} | {second:.3f} |" in card
    assert all(card.count(f"| {label} |") for label in FIGURES.values())
    assert "| turbo, distilled | 2 |" in card
    assert "| figure | 1 step(s) | 2 step(s) | its teacher, 2 guided steps |" in card
    model = FrozenDiffusion.from_pretrained(made["sd"])
    images = generate(model, ["a ball"] * len(PICTURES), QUALITY, seed=0)
    assert images[0].shape == (64, 64, 3) and images[0].dtype == np.uint8
    assert not np.array_equal(images[0], images[1]), "every image has its own noise"
    grid = generation_grid(PICTURES, images)
    colours = [axis.title.get_color() for axis in grid.axes if axis.get_title()]
    assert colours == ["black"] * 24 + ["firebrick"] * 8
    scenes = captioned_scenes(11, 2, CANVAS)
    assert len(attention_grid(model, scenes, QUALITY).axes) >= 4 * 2


def test_what_is_found_and_what_would_be_by_chance() -> None:
    wanted = [("ball", "cat"), ("ball", "mug"), ("boat", "bird")]
    found = [frozenset(names) for names in (("ball", "cat", "sky"), ("ball",), ())]
    assert found_shares(wanted, found) == {
        "each": pytest.approx(3 / 6),
        "both": pytest.approx(1 / 3),
        # The first image has the ball of the second prompt, the second that of the first.
        "each_chance": pytest.approx(2 / 12),
        "both_chance": 0.0,
    }
    assert found_shares(wanted[::-1], found[::-1]) == found_shares(wanted, found)


def test_a_detection_below_the_score_is_no_find(root: Path) -> None:
    segmenter = InstanceSegmenter.from_pretrained(root / "data/06_models/mini-segmenter")
    image = captioned_scenes(11, 1, WORLD.canvas)[0].rendering.image
    scores = dict(zip((d := segmenter([image])[0]).labels, d.scores, strict=True))
    for score in (0.1, 0.5, 0.9):
        (found,) = found_names(segmenter, [image], score)
        assert found >= {name for name, value in scores.items() if value > score}
        assert found <= set(d.labels[: int((d.scores > score).sum())])


def test_things_lost_by_the_autoencoder_are_not_found(root: Path) -> None:
    """With a decoder that paints one colour, renders keep their things and reconstructions none."""
    models = root / "data/06_models"
    model = FrozenDiffusion.from_pretrained(models / "mini-sd")
    segmenter = InstanceSegmenter.from_pretrained(models / "mini-segmenter")
    scenes = captioned_scenes(11, 8, WORLD.canvas)
    true = judge_reconstructions(model, segmenter, scenes, 0.5)
    with torch.no_grad():
        model.vae.decoder.conv_out.weight.zero_()
    blind = judge_reconstructions(model, segmenter, scenes, 0.5)
    assert blind["found_in_renders"] == true["found_in_renders"] > 0.5
    assert true["found_in_reconstructions"] > blind["found_in_reconstructions"] == 0
    assert true["vae_psnr"] > blind["vae_psnr"] + 5


def test_an_item_does_not_depend_on_its_batch(
    made: dict[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    model = FrozenDiffusion.from_pretrained(made["sd"])
    scenes = captioned_scenes(11, 5, CANVAS)
    prompts = [prompt.text for prompt in two_object_prompts(5, 11)]
    request = ProbeRequest(cross=model.layers.cross)

    def all_of_it() -> tuple[list[Any], list[torch.Tensor]]:
        located = probe_scenes(model, scenes, request, 100, 11, bare_names)
        maps = [localise.cross_maps(found, model.layers.cross) for found in located]
        return generate(model, prompts, QUALITY, seed=11), maps

    images, maps = all_of_it()
    monkeypatch.setattr(painting, "BATCH", 2)
    monkeypatch.setattr(localise, "BATCH", 2)
    others, other_maps = all_of_it()
    for image, other in zip(images, others, strict=True):
        assert np.abs(image.astype(int) - other).max() <= 1  # the kernels' rounding
    for one, other in zip(maps, other_maps, strict=True):
        torch.testing.assert_close(one, other, atol=1e-5, rtol=1e-3)
    assert not np.array_equal(images[0], images[1])


def test_bare_names_mean_all_things_of_their_kind(made: dict[str, Path]) -> None:
    model = FrozenDiffusion.from_pretrained(made["sd"])
    scenes = captioned_scenes(11, 40, CANVAS)
    request = ProbeRequest(cross=model.layers.cross)
    several = 0
    for scene, located in zip(
        scenes, probe_scenes(model, scenes, request, 100, 0, bare_names), strict=True
    ):
        phrases = bare_names(scene).phrases
        assert located.things.tolist() == [phrase.groups[0] >= 0 for phrase in phrases]
        for phrase, tokens, mask in zip(phrases, located.tokens, located.masks, strict=True):
            segments = [
                s.number for s in scene.rendering.segments if s.category.name == phrase.text
            ]
            assert np.array_equal(mask, np.isin(scene.rendering.ids, segments))
            assert tokens
            several += len(phrase.groups) > 1
    assert several > 0
    options: dict[str, Any] = {"timestep": 100, "seed": 0, "propagations": [(1, 1.0)]}
    plain = measure(model, scenes, **options, words=bare_names)
    assert measure(model, scenes, **options).cross != plain.cross


def test_perfect_maps_have_iou_one() -> None:
    scene = captioned_scenes(7, 1, CANVAS)[0]
    masks = np.stack([scene.rendering.mask(p.groups[0]) for p in scene.prompt.phrases])
    located = Located(ProbeResult(), [], masks, np.ones(len(masks), bool))
    assert argmax_iou(torch.from_numpy(masks).float(), located) == pytest.approx(1.0)
    assert argmax_iou(torch.from_numpy(~masks).float(), located).max() < 0.5


def test_two_object_prompts_depend_on_their_index_only() -> None:
    few, many = two_object_prompts(3, 0), two_object_prompts(9, 0)
    assert few == many[:3]
    assert all(len(set(p.names)) == 2 and all(name in p.text for name in p.names) for p in many)
    assert two_object_prompts(3, 1) != few
    plain = bare(few[0])
    assert plain.text == f"a photo of a {few[0].names[0]} and a {few[0].names[1]}"
    assert plain.names == few[0].names


def test_the_fixed_prompts_are_trained_or_not_as_they_say(
    conf: Callable[[str], Any],
) -> None:
    """Of the last eight, no scene of the shipped recipe has the things on the ground; of the
    others at least one has, and the eight's things belong to no setting together."""
    base = FoundationRecipe.model_validate(conf("mini")["parameters"]["foundation"])
    source, drawn = base.scenes, Counter[tuple[frozenset[str], str]]()
    for index in range(source.count):
        simple = bool(rng_for(source.seed, index, "simple").random() < source.simple)
        scene = sample_scene(source.seed, index, WORLD.sizes, simple=simple)
        scene = mixed_scene(scene, base.diffusion.mixed)
        drawn[frozenset(group.category.name for group in scene.groups), scene.below.name] += 1
    met = {
        prompt: sum(
            count
            for (names, below), count in drawn.items()
            if names.issuperset(prompt.names) and ground(prompt.text) in ("", below)
        )
        for prompt in PICTURES
    }
    assert [prompt.trained for prompt in met] == [count > 0 for count in met.values()]
    assert len(met) == 32 and sum(not prompt.trained for prompt in met) == 8
    assert {name for prompt in met for name in prompt.names} == {thing.name for thing in THINGS}
    for prompt in met:
        assert all(name in prompt.text for name in prompt.names)
        together = any(set(prompt.names) <= set(s.things) for s in SETTINGS.values())
        assert prompt.trained == together


def ground(text: str) -> str:
    """The stuff that a prompt puts its things on, if any."""
    names: Sequence[str] = [stuff.name for stuff in BELOW if f" on {stuff.name}" in text]
    return names[0] if names else ""


def test_a_world_is_measured_once() -> None:
    with pytest.raises(ValidationError, match="names a world twice"):
        recipe(QualityConfig, eval_seeds=[1, 1])
    with pytest.raises(ValidationError, match="greater than or equal to 2"):
        recipe(QualityConfig, images=1)
