"""Every stage of compat official against values that were made once, by the definition.

How they were made, without torch and without anything of ours, stands in ``text2mask_golden.py``.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from functools import cache
from typing import Any

import numpy as np
import pytest
import text2mask_golden as plain
import torch
from diffusers.models.attention_processor import Attention
from random_model import random_model

from diffground.attention import aggregate
from diffground.attention.aggregate import AggregationConfig, ClassMaps, layers_read
from diffground.attention.official import box_mask
from diffground.attention.preprocess import Geometry, sizes
from diffground.attention.selfcross import aggregate_cross, minmax, propagate
from diffground.backbone.probe import ProbeResult
from diffground.backbone.taps import attend
from diffground.masks.crf import crf_picture, crf_unary
from diffground.masks.uncertainty import uncertain

LAYERS = ("fine", "coarse")
GEOMETRY = Geometry(plain.ORIGINAL, plain.CONTENT, plain.PADDED)


@cache
def golden() -> dict[str, Any]:
    content: dict[str, Any] = json.loads(plain.FILE.read_text("utf-8"))
    return content


def values(name: str) -> torch.Tensor:
    return torch.tensor(golden()[name])


def close(found: torch.Tensor, expected: torch.Tensor) -> None:
    torch.testing.assert_close(found, expected, atol=2e-6, rtol=1e-5)


def attended(name: str, context: Any, heads_at_once: int = plain.HEADS) -> torch.Tensor:
    """What is captured of a layer, probabilities (N, context)."""
    inputs = golden()["inputs"]["layers"][name]
    hidden, keys = torch.tensor([inputs["hidden"]]), torch.tensor([context])
    layer = Attention(
        query_dim=hidden.shape[-1],
        cross_attention_dim=keys.shape[-1],
        heads=plain.HEADS,
        dim_head=plain.WIDTH,
    )
    with torch.no_grad():
        layer.to_q.weight.copy_(torch.tensor(inputs["q"]))
        layer.to_k.weight.copy_(torch.tensor(inputs["k"]))
        return attend(layer, hidden, keys, None, heads_at_once)[1][0]


def probed(layers: Sequence[str] = LAYERS, affinity: str = "self") -> ProbeResult:
    """What a pass over the tiny image would have captured, under these layers' names."""
    by_layer = golden()["cross layers"]
    cross = {
        name: torch.tensor(by_layer[layer]).T.unflatten(1, size)[None]
        for name, layer, size in zip(layers, LAYERS, (plain.GRID, (2, 4)), strict=True)
    }
    return ProbeResult(cross, {affinity: values("self")[None]}, {affinity: plain.GRID})


def maps(name: str = "maps", geometry: Geometry = GEOMETRY) -> ClassMaps:
    nothing = torch.empty(0)
    return ClassMaps(("a", "b"), nothing, nothing, nothing, geometry).with_maps(values(name))


def test_the_file_is_what_its_script_makes() -> None:
    made = json.loads(json.dumps(plain.rounded(plain.make())))
    assert set(made) == set(golden())
    for name, content in made.items():
        if name in ("inputs", "cross layers"):
            assert content.keys() == golden()[name].keys()
        else:
            np.testing.assert_allclose(content, golden()[name], atol=2e-7)


def test_sizes() -> None:
    for (height, width), content in golden()["sizes"]:
        found = sizes(height, width, native=512, multiple=64, compat="official")
        assert found.content == tuple(content)
        assert all(
            0 <= p - c < 64 and p % 64 == 0 for p, c in zip(found.padded, content, strict=True)
        )
    assert sizes(*plain.ORIGINAL, native=16, multiple=8, compat="official") == GEOMETRY


@pytest.mark.parametrize("heads_at_once", [1, plain.HEADS])
def test_self_is_the_mean_of_the_heads(heads_at_once: int) -> None:
    hidden = golden()["inputs"]["layers"]["self"]["hidden"]
    close(attended("self", hidden, heads_at_once), values("self"))


@pytest.mark.parametrize("layer", LAYERS)
def test_cross_of_a_layer(layer: str) -> None:
    expected = torch.tensor(golden()["cross layers"][layer])
    close(attended(layer, golden()["inputs"]["text"]), expected)


def test_cross_of_all_layers() -> None:
    cross = aggregate_cross(probed(), LAYERS, plain.TOKENS, plain.GRID)
    close(cross, values("cross"))
    close(minmax(cross), values("normalised"))


def test_boxes() -> None:
    for threshold, expected in zip(plain.BOXES, values("boxes"), strict=True):
        assert torch.equal(box_mask(values("normalised"), threshold), expected.bool())
    levels = torch.tensor(plain.LEVELS) / 255
    for threshold, expected in zip(plain.BOXES, values("level boxes"), strict=True):
        assert torch.equal(box_mask(levels[None], threshold)[0], expected.bool())


def test_propagation() -> None:
    passed = values("normalised") * values("boxes")[-1]
    spread = propagate(values("self"), passed, 2)
    close(spread, values("propagated"))
    close(minmax(spread), values("maps"))


@pytest.mark.parametrize(("compat", "name"), [("official", "maps"), ("paper", "paper maps")])
def test_all_steps_of_the_maps(compat: str, name: str) -> None:
    """From what was captured to the maps."""
    model = random_model("tiny")
    config = AggregationConfig(
        compat=compat, cross_layers=(4, 5), self_layer=11, box_threshold=plain.BOXES[-1]
    )
    table = layers_read(model, config)
    captured = probed(table.cross, table.self_layer)
    words = aggregate._Words(plain.TOKENS, neutral=[1, 2])  # the neutral ones change no map
    found, cross, _ = aggregate._normalised_maps(model, captured, words, config, 0)
    torch.testing.assert_close(found, values(name), atol=1e-5, rtol=0)
    close(cross, values("normalised"))


@pytest.mark.parametrize(
    ("dataset", "threshold"), [*zip(("voc", "coco"), plain.BACKGROUND, strict=True)]
)
def test_background(dataset: str, threshold: float) -> None:
    config = AggregationConfig(background_threshold=threshold)
    close(aggregate.scores(maps(), config), values(f"scores {dataset}"))
    of_dataset = AggregationConfig().for_dataset({"voc": "voc2012", "coco": "coco2014"}[dataset])
    assert of_dataset.thresholds[1] == threshold


def test_enlarging() -> None:
    close(aggregate.image_scores(maps(), AggregationConfig()), values("large"))
    paper = AggregationConfig(compat="paper")
    alone = maps("paper maps", Geometry(plain.ORIGINAL, plain.PADDED, plain.PADDED))
    close(aggregate.image_scores(alone, paper), values("paper large"))
    labels = values("paper large").argmax(0).numpy()
    assert np.array_equal(aggregate.initial_labels(alone, paper), labels)


def test_initial_labels() -> None:
    geometry = sizes(*plain.LARGE, native=16, multiple=8, compat="official")
    assert geometry == Geometry(plain.LARGE, plain.CONTENT, plain.PADDED)
    labels = aggregate.initial_labels(maps(geometry=geometry), AggregationConfig())
    assert np.array_equal(labels, golden()["initial"])


def test_what_the_crf_is_given() -> None:
    unary = crf_unary(np.array(golden()["large"], np.float32))
    np.testing.assert_allclose(unary, golden()["unary"], rtol=1e-4, atol=1e-5)
    assert unary.dtype == np.float32
    picture = np.array(plain.PIXELS, np.uint8)
    assert crf_picture(picture, "official").tolist() == golden()["picture"]
    assert crf_picture(picture, "paper").tolist() == plain.PIXELS


def test_uncertain_pixels() -> None:
    posterior = np.array(plain.POSTERIOR)
    pseudo = np.array(golden()["pseudo"])
    labels = np.array([0, 7, 9])[posterior.argmax(axis=0)]
    assert np.array_equal(np.where(uncertain(posterior, "official"), 255, labels), pseudo)
    assert np.array_equal(uncertain(posterior, "paper"), golden()["paper uncertain"])
