"""DAAM on synthetic samples: its heat maps, and where its threshold comes from."""

from __future__ import annotations

import inspect
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_grounded
import tiny_png
import torch
from torch.nn import functional

from diffground.attention.baselines import daam_layers
from diffground.backbone.layers import cross_sites
from diffground.backbone.probe import ProbeRequest
from diffground.backbone.sampler import sample
from diffground.errors import InputError
from diffground.papers.grounded.daam import Daam, choose_threshold
from diffground.papers.grounded.learning_config import DaamConfig
from diffground.papers.grounded.measuring import measure
from diffground.papers.grounded.samples import Samples, SyntheticSet

CONFIG = DaamConfig(thresholds=(0.3, 0.5, 0.7), batch=2)


@pytest.fixture(scope="module")
def samples(tmp_path_factory: pytest.TempPathFactory) -> Samples:
    """Five, really generated."""
    root, config = tmp_path_factory.mktemp("daam"), tiny_grounded.config()
    made = SyntheticSet.open(root / tiny_grounded.made(root, config)["folder"])
    return made.chosen(config.choice.model_copy(update={"instances": "first"}))[0]


def daam(samples: Samples, threshold: float = 0.5, batch: int = 1) -> Daam:
    return Daam(tiny_png.backbone(), samples.source.generation, threshold, batch)


def test_heat_maps_are_the_sum_over_all_steps(samples: Samples) -> None:
    """By the plain formula: every head of every step and layer, up, cut off, summed; then words."""
    one, model = samples[0], tiny_png.backbone()
    settings = samples.source.generation
    encoding = model.encode_prompts([one.prompt])
    layers = daam_layers(cross_sites(model.unet))
    assert len(layers) == 15
    request = ProbeRequest(cross=layers, heads=layers)
    total: dict[str, torch.Tensor] = {}
    for step in sample(
        model, encoding, [one.seed], steps=settings.steps, guidance=settings.guidance, probe=request
    ):
        for layer, maps in step.probe.heads.items():
            total[layer] = total.get(layer, 0) + maps[0]
    large = [
        functional.interpolate(maps, (8, 8), mode="bicubic").clamp_min(0) for maps in total.values()
    ]
    words = torch.cat(large).mean(0)  # (tokens, h, w)
    (found,) = daam(samples).scores([one])
    assert found.shape == one.masks.shape
    for name, scores in zip(one.names, found, strict=True):
        start = one.prompt.index(name)
        tokens = encoding.token_indices(0, (start, start + len(name)))
        heat = functional.interpolate(words[tokens].mean(0)[None, None], (64, 64), mode="bicubic")
        heat = (heat - heat.min()) / (heat.max() - heat.min())
        np.testing.assert_allclose(scores, heat[0, 0].numpy(), atol=1e-4)


def test_a_batch_changes_nothing(samples: Samples) -> None:
    part = list(samples)
    alone, together = daam(samples).scores(part), daam(samples, batch=3).scores(part)
    for one, other in zip(alone, together, strict=True):
        np.testing.assert_allclose(one, other, atol=1e-3)


def test_the_threshold_is_the_best_of_validation(samples: Samples) -> None:
    validation = samples[:3]
    found = choose_threshold(tiny_png.backbone(), validation, CONFIG)
    by_hand = {
        t: measure(daam(samples, t, 2), validation).result()["class"] for t in CONFIG.thresholds
    }
    assert len({*by_hand.values()}) == 3, "all alike: nothing would be chosen"
    assert found.threshold == max(by_hand, key=lambda t: by_hand[t])
    # Nothing else is given to it: test samples cannot be looked at.
    assert [*inspect.signature(choose_threshold).parameters] == ["model", "samples", "config"]
    with pytest.raises(InputError, match="none to choose"):
        choose_threshold(tiny_png.backbone(), samples[:0], CONFIG)


def test_a_name_that_the_prompt_lacks_has_no_map(samples: Samples) -> None:
    one = samples[0]
    masks = np.concatenate([one.masks[:1], 0 * one.masks[:1], one.masks[1:]])
    asked = replace(one, names=(one.names[0], "yellow house", *one.names[1:]), masks=masks)
    (found,), (expected,) = daam(samples).scores([asked]), daam(samples).scores([one])
    assert not found[1].any()
    np.testing.assert_array_equal(found[[0, 2]], expected)


def test_another_picture_is_refused(samples: Samples) -> None:
    with pytest.raises(InputError, match=r"train-00000: seed: its seed gives another picture"):
        daam(samples).scores([replace(samples[0], seed=samples[0].seed + 1)])


def test_one_step_without_guidance(tmp_path: Path) -> None:
    """As SDXL-Turbo."""
    generation = {"steps": 1, "guidance": 0.0, "scheduler": "EulerAncestralDiscreteScheduler"}
    config = tiny_grounded.config(generation=generation)
    made = SyntheticSet.open(tmp_path / tiny_grounded.made(tmp_path, config)["folder"])
    samples = made.chosen(config.choice)[0]
    for one, scores in zip(samples, daam(samples, batch=2).scores(list(samples)), strict=True):
        assert scores.shape == one.masks.shape
        assert (scores.max(axis=(1, 2)) > 0.99).all()
