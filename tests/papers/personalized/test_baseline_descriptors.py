"""The row DINO-ViT: patches of an item, and the segments that have them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from scene_of_squares import BLUE, MASKS, RED, Squares, pictures, query, scene
from transformers import ViTConfig, ViTModel

from diffground.errors import InputError
from diffground.io.images import read_image
from diffground.papers.personalized.baselines.config import DescriptorsConfig
from diffground.papers.personalized.baselines.descriptors import DenseDescriptors
from diffground.segmenters.pooling import coverage
from diffground.segmenters.vit import VitDescriptors

CONFIG = DescriptorsConfig(short_side=64, layer=0, saliency=0.5)


@pytest.fixture(scope="module")
def row() -> DenseDescriptors:
    torch.manual_seed(1)
    network = ViTModel(
        ViTConfig(hidden_size=32, num_hidden_layers=2, num_attention_heads=2, image_size=64,
                  patch_size=8, intermediate_size=64),
        add_pooling_layer=False,
    )  # fmt: skip
    with torch.no_grad():  # random positions would count more than colours
        network.embeddings.position_embeddings.zero_()
    return DenseDescriptors(VitDescriptors(network, [0.5] * 3, [0.5] * 3), Squares(), CONFIG)


def test_the_segment_with_the_items_patches_is_nearest(
    row: DenseDescriptors, tmp_path: Path
) -> None:
    asked = [query("red", pictures(tmp_path, RED)), query("blue", pictures(tmp_path, BLUE))]
    segments = row.segments(scene(), asked, item="s", seed=0)
    assert segments is MASKS
    open_ = DenseDescriptors(row.vit, row.regions, CONFIG.model_copy(update={"saliency": 0.0}))
    table = open_.relevance(scene(), segments, asked, item="s", seed=0)
    assert table.argmax(1).tolist() == [0, 1]
    assert table.max() <= 1 + 1e-6


def test_relevance_is_the_mean_of_largest_cosines(row: DenseDescriptors, tmp_path: Path) -> None:
    paths = pictures(tmp_path, RED)
    known = []
    for path in paths:
        described = row.vit(read_image(path), short_side=64, layer=0)
        salient = described.saliency >= 0.5
        assert 0 < salient.sum() < salient.numel()
        known.append(described.keys[:, salient].T)
    bank = torch.nn.functional.normalize(torch.cat(known), dim=-1)
    keys = torch.nn.functional.normalize(row.vit(scene(), short_side=64, layer=0).keys, dim=0)
    best = (bank @ keys.flatten(1)).amax(0).view(8, 14)
    weights = coverage(MASKS, (8, 14))
    wanted = (weights * best).sum((1, 2)) / weights.sum((1, 2))
    found = row.relevance(scene(), MASKS, [query("red", paths)], item="s", seed=0)
    np.testing.assert_allclose(found[0], wanted.numpy(), rtol=1e-5)


def test_a_broken_picture_is_named(row: DenseDescriptors, tmp_path: Path) -> None:
    broken = tmp_path / "broken.png"
    broken.write_bytes(b"no picture")
    with pytest.raises(InputError, match=r"broken\.png"):
        row.relevance(scene(), MASKS, [query("x", (broken,))], item="s", seed=0)
    with pytest.raises(InputError, match="x: references: .* give some"):
        row.relevance(scene(), MASKS, [query("x", ())], item="s", seed=0)
