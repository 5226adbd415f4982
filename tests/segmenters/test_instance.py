"""The off-the-shelf segmenter: other networks than Mask2Former, and what reaches them."""

from __future__ import annotations

import json
import shutil
from pathlib import Path

import numpy as np
import pytest
import tiny_grounded
import torch
from tiny_foundation import CANVAS
from transformers import (
    DetrConfig,
    MaskFormerConfig,
    MaskFormerForInstanceSegmentation,
    MaskFormerImageProcessor,
    SwinConfig,
)

from diffground.errors import InputError
from diffground.foundation.scenes import captioned_scenes
from diffground.foundation.segmenter import image_processor
from diffground.segmenters.instance import InstanceSegmenter, labels_of
from diffground.shipped import shipped

LABELS = {0: "cat", 1: "dog", 2: "sky"}


@pytest.fixture(scope="module")
def maskformer(tmp_path_factory: pytest.TempPathFactory) -> Path:
    torch.manual_seed(0)
    backbone = SwinConfig(
        image_size=64, embed_dim=8, depths=[1, 1, 1, 1], num_heads=[1, 1, 2, 2], window_size=4,
        out_features=["stage1", "stage2", "stage3", "stage4"],
    )  # fmt: skip
    decoder = DetrConfig(
        d_model=16, decoder_layers=1, encoder_layers=1, decoder_attention_heads=2,
        encoder_attention_heads=2, decoder_ffn_dim=16, encoder_ffn_dim=16, num_queries=5,
    )  # fmt: skip
    config = MaskFormerConfig(
        fpn_feature_size=32, mask_feature_size=32, backbone_config=backbone,
        decoder_config=decoder, id2label=LABELS, label2id={v: k for k, v in LABELS.items()},
    )  # fmt: skip
    folder = tmp_path_factory.mktemp("maskformer")
    MaskFormerForInstanceSegmentation(config).save_pretrained(folder)
    MaskFormerImageProcessor(size={"height": 64, "width": 64}).save_pretrained(folder)
    return folder


def test_a_maskformer(maskformer: Path) -> None:
    assert labels_of(maskformer) == ("cat", "dog", "sky")
    segmenter = InstanceSegmenter.from_pretrained(maskformer)
    images = [np.zeros((40, 60, 3), np.uint8), np.full((60, 40, 3), 255, np.uint8)]
    found = segmenter(images, threshold=0.0)
    assert [one.masks.shape[1:] for one in found] == [(40, 60), (60, 40)]
    for one in found:
        assert {*one.labels} <= {*LABELS.values()} and len(one.labels) == len(one.masks)
        assert list(one.scores) == sorted(one.scores, reverse=True)


def test_images_beside_one_another_are_those_alone(maskformer: Path) -> None:
    segmenter = InstanceSegmenter.from_pretrained(maskformer)
    segmenter.processor = image_processor(64)  # keeps shapes
    rng = np.random.default_rng(0)
    images = [rng.integers(0, 256, size, np.uint8) for size in ((64, 64, 3), (64, 128, 3))]
    for image, found in zip(images, segmenter(images, threshold=0.0), strict=True):
        (alone,) = segmenter([image], threshold=0.0)
        np.testing.assert_array_equal(found.masks, alone.masks)
        np.testing.assert_array_equal(found.scores, alone.scores)


def test_the_shipped_segmenter_does_not_squeeze_wide_scenes() -> None:
    segmenter = InstanceSegmenter.from_pretrained(shipped("data/06_models/mini-segmenter"))
    for shape, wanted in (
        ((128, 128), (128, 128)),
        ((128, 256), (128, 256)),
        ((64, 48), (192, 128)),
    ):
        given = segmenter.processor(images=[np.zeros((*shape, 3), np.uint8)], return_tensors="pt")
        assert given["pixel_values"].shape[2:] == wanted


@pytest.mark.parametrize("kind", ["mask2former", "maskformer"])
def test_red_is_the_first_channel(kind: str, maskformer: Path) -> None:
    """Pictures are RGB, and go into the network as such; public code swapped red and blue."""
    folder = maskformer if kind == "maskformer" else tiny_grounded.segmenter()
    segmenter = InstanceSegmenter.from_pretrained(folder)
    seen: list[torch.Tensor] = []
    segmenter.model.register_forward_pre_hook(
        lambda _, args, kwargs: seen.append(kwargs["pixel_values"]), with_kwargs=True
    )
    red = np.zeros((64, 64, 3), np.uint8)
    red[..., 0] = 255
    segmenter([red])
    mean, std = (np.array(getattr(segmenter.processor, f"image_{n}")) for n in ("mean", "std"))
    wanted = (np.array([1.0, 0.0, 0.0]) - mean) / std
    assert seen[0][0].mean((1, 2)).numpy() == pytest.approx(wanted, abs=1e-4)


def test_the_shipped_segmenter_is_worse_with_swapped_channels() -> None:
    segmenter = InstanceSegmenter.from_pretrained(shipped("data/06_models/mini-segmenter"))
    scenes = captioned_scenes(3, 24, CANVAS._replace(size=128))
    images = [scene.rendering.image for scene in scenes]
    swapped = [np.ascontiguousarray(image[..., ::-1]) for image in images]
    right, wrong = (
        sum(float(one.scores.sum()) for one in segmenter(part, threshold=0.5))
        for part in (images, swapped)
    )
    assert wrong < right


def test_networks_that_do_not_answer_by_queries(maskformer: Path, tmp_path: Path) -> None:
    folder = tmp_path / "other"
    shutil.copytree(maskformer, folder)
    config = json.loads((folder / "config.json").read_text())
    for broken, match in (
        ({**config, "model_type": "oneformer"}, "model_type: 'oneformer'.*mask2former"),
        ({"model_type": "maskformer"}, "config: is none of a segmenter"),
    ):
        (folder / "config.json").write_text(json.dumps(broken))
        with pytest.raises(InputError, match=match):
            InstanceSegmenter.from_pretrained(folder)
        with pytest.raises(InputError, match=match):
            labels_of(folder)
    (folder / "config.json").unlink()
    with pytest.raises(InputError, match=r"config\.json: the segmenter's folder lacks it"):
        labels_of(folder)
