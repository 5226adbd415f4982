"""Every baseline by its name, with the mini models, on a picture of Mug19's scenes."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from recipes import recipe
from scene_of_squares import RED, pictures, query, scene

from diffground.backbone.on_demand import Frozen
from diffground.backbone.personal import PersonalToken
from diffground.papers.personalized.config import MethodName, PersonalizedConfig
from diffground.papers.personalized.queries import Query
from diffground.papers.personalized.rows import METHODS, Bench, method_recipe
from diffground.shipped import shipped

MODELS = {part: shipped(f"data/06_models/mini-{part}") for part in ("clip", "segmenter", "vit")}
BASELINES: tuple[MethodName, ...] = (
    "detector", "descriptors", "arithmetic", "palavra+clip_es", "custom+clip_es",
    "palavra+selfcross",
)  # fmt: skip


def bench(method: MethodName, folder: Path) -> Bench:
    attention = {"long_side": 128, "timestep": 100}
    config = recipe(
        PersonalizedConfig,
        method=method,
        device="cpu",
        precision="float32",
        localiser={"attention": attention, "lead": "a photo of a"},
        baselines={
            "detector": {"threshold": 0.0, "names": {"mug": ["ball", "book", "house", "wall"]}},
            "descriptors": {"short_side": 64, "layer": -1},
            "arithmetic": {"place": "tokens"},
        },
    )
    frozen = Frozen(shipped("data/06_models/mini-sd"), config)

    def tokens(asked: Query) -> PersonalToken:
        torch.manual_seed(len(asked.item))
        vector = torch.randn(frozen.model.context_dim)
        return PersonalToken(asked.token, asked.word, (vector,), {}, frozen.fingerprint)

    return Bench(config, frozen, tokens, MODELS, folder / "words")


@pytest.mark.parametrize("method", BASELINES)
def test_a_row_divides_a_scene_and_compares(method: MethodName, tmp_path: Path) -> None:
    opened = METHODS[method].open(bench(method, tmp_path))
    paths = pictures(tmp_path, RED)
    asked = [query("mug01", paths), query("mug002", paths, "an empty mug")]
    segments = opened.segments(scene(), asked, item="s", seed=0)
    assert segments.dtype == bool and segments.shape[1:] == (64, 112)
    assert len(segments) and segments.sum(0).max() == 1
    table = opened.relevance(scene(), segments, asked, item="s", seed=0)
    assert table.shape == (2, len(segments)) and table.dtype == np.float64
    assert np.isfinite(table).all()
    again = opened.relevance(scene(), segments, asked, item="s", seed=0)
    assert np.array_equal(table, again), "nothing but (seed, item) decides"


def test_answers_depend_on_a_rows_own_models_and_settings(tmp_path: Path) -> None:
    found = {method: method_recipe(bench(method, tmp_path)) for method in BASELINES}
    assert found["descriptors"]["models"].keys() == {"vit"}
    assert found["descriptors"]["settings"] == {
        "descriptors": {"short_side": 64, "layer": -1, "saliency": 0.065}
    }
    assert found["palavra+clip_es"]["settings"].keys() == {"clip_es", "palavra"}
    assert {"clip_es", "contrastive", "palavra"} <= found["palavra+clip_es"]["code"].keys()
    assert METHODS["custom+clip_es"].learns and not METHODS["palavra+clip_es"].learns
