"""DeepLabV2: dilation keeps the weights' meaning, and every way to begin is checked."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import torch
from pydantic import ValidationError
from safetensors.torch import load_file, save_file
from torch import nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetForImageClassification, ResNetModel

from diffground.errors import InputError
from diffground.segmenters.config import DeepLabConfig, ResNetShape
from diffground.segmenters.deeplab import DeepLabV2, deeplab_loss
from diffground.segmenters.resnet import CONFIG, WEIGHTS, dilate

NAMES = ("background", "ball", "mug", "tree", "car")
SHAPE = ResNetShape(
    layer_type="basic", depths=(1, 1, 2, 2), hidden_sizes=(4, 6, 8, 10), embedding_size=4
)
RANDOM = DeepLabConfig(
    init="random", shape=SHAPE, rates=(1, 2, 3), batch_norm="trained", scales=(1.0, 0.5, 0.75)
)


def resnet(layer_type: str, in_bottleneck: bool = False) -> ResNetModel:
    """A small ResNet whose batch norms have statistics of their own."""
    torch.manual_seed(0)
    model = ResNetModel(
        ResNetConfig(
            layer_type=layer_type, depths=[2, 2, 2, 2], hidden_sizes=[8, 8, 16, 16],
            embedding_size=8, downsample_in_bottleneck=in_bottleneck,
        )
    ).eval()  # fmt: skip
    for norm in (m for m in model.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_(std=0.2)
        norm.running_var.uniform_(0.5, 1.5)
    return model


@pytest.mark.parametrize("size", [(128, 96), (121, 129)])
@pytest.mark.parametrize(
    ("layer_type", "in_bottleneck"), [("basic", False), ("bottleneck", False), ("bottleneck", True)]
)
@torch.no_grad()
def test_dilated_network_has_the_strided_one_within(
    layer_type: str, in_bottleneck: bool, size: tuple[int, int]
) -> None:
    """The same weights: every fourth cell at stride 8 is a cell of the ResNet at stride 32."""
    images = torch.randn(1, 3, *size)
    model = resnet(layer_type, in_bottleneck)
    strided = model(images).last_hidden_state
    dilate(model, 8)
    dense = model(images).last_hidden_state
    assert dense.shape[-2:] == tuple(-(-side // 8) for side in size)
    torch.testing.assert_close(dense[..., ::4, ::4], strided, atol=1e-5, rtol=1e-4)
    assert not torch.equal(dense[..., 0, :], dense[..., 1, :])  # the cells between are new


def reach(model: ResNetModel) -> tuple[int, int]:
    """Output stride and receptive field by hand: r += (k - 1) d s for each layer, s *= stride."""
    stride, field = 2, 7  # the 7x7 stem
    stride, field = stride * 2, field + 2 * stride  # its 3x3 pooling
    for stage in model.encoder.stages:
        for layer in stage.layers:
            for unit in layer.layer:
                (kernel, _), (step, _), (spread, _) = (
                    getattr(unit.convolution, n) for n in ("kernel_size", "stride", "dilation")
                )
                field += (kernel - 1) * spread * stride
                stride *= step
    return stride, field


@pytest.mark.parametrize(
    ("caffe", "field", "spreads"),
    [
        # 11 (stem) + 3·8 + (8 + 3·16) + (16 + 22·32) + (32 + 2·64): a stage's first 3x3 strides
        (False, 971, [{1}, {1}, {1, 2}, {2, 4}]),
        # 11 (stem) + 3·8 + 4·16 + 23·32 + 3·64: the 1x1 before it does, as in the public DeepLab
        (True, 1027, [{1}, {1}, {2}, {4}]),
    ],
)
def test_resnet_101_at_stride_8(caffe: bool, field: int, spreads: list[set[int]]) -> None:
    """Dilation 2 and 4 in the last stages, the receptive field of the strided network."""
    shape = ResNetShape(downsample_in_bottleneck=caffe)
    with torch.device("meta"):
        model = ResNetModel(ResNetConfig(**shape.model_dump()))
    assert reach(model) == (32, field)
    dilate(model, 8)
    assert reach(model) == (8, field)
    found = [
        [layer.layer[1].convolution.dilation[0] for layer in stage.layers]
        for stage in model.encoder.stages
    ]
    assert [set(stage) for stage in found] == spreads
    assert set(found[2][1:]) == {2} and set(found[3][1:]) == {4}


@torch.no_grad()
def test_scores_against_the_plain_equations() -> None:
    model = DeepLabV2.build(RANDOM, NAMES[:5], seed=1).eval()
    images = torch.randn(2, 3, 72, 56)

    def plain(x: torch.Tensor) -> torch.Tensor:
        features = model.backbone(x).last_hidden_state
        total = torch.zeros(())
        for rate, branch in zip((1, 2, 3), model.aspp, strict=True):
            total = total + functional.conv2d(
                features, branch.weight, branch.bias, padding=rate, dilation=rate
            )
        return total

    one = plain(images)
    half = plain(functional.interpolate(images, (36, 28), mode="bilinear"))
    most = plain(functional.interpolate(images, (54, 42), mode="bilinear"))
    larger = [functional.interpolate(s, one.shape[-2:], mode="bilinear") for s in (half, most)]
    merged = np.maximum.reduce([s.numpy() for s in (one, *larger)])
    for got, want in zip(model(images), (one, half, most, torch.from_numpy(merged)), strict=True):
        torch.testing.assert_close(got, want)
    assert one.shape == (2, 5, 9, 7)
    alone = DeepLabV2.build(RANDOM.model_copy(update={"scales": (1.0,)}), NAMES[:5], seed=1).eval()
    (only,) = alone(images)
    torch.testing.assert_close(only, one)


def test_loss_sums_the_scales_and_leaves_unsure_pixels_out() -> None:
    torch.manual_seed(0)
    labels = torch.randint(0, 3, (2, 8, 8))
    labels[0, :4] = 255
    scores = tuple(torch.randn(2, 3, side, side, requires_grad=True) for side in (8, 4, 2))
    want = sum(
        functional.cross_entropy(s, labels[:, k // 2 :: k, k // 2 :: k], ignore_index=255)
        for s, k in zip(scores, (1, 2, 4), strict=True)  # the pixel at a cell's centre
    )
    losses = deeplab_loss(scores, labels)
    torch.testing.assert_close(losses["loss"], want)
    nothing = deeplab_loss(scores, torch.full_like(labels, 255))["loss"]
    assert nothing.item() == 0
    nothing.backward()  # and it has a gradient, of zeros
    assert not scores[0].grad.any()


def test_stem_without_pooling_has_half_the_stride() -> None:
    config = RANDOM.model_copy(update={"stem_pooling": False, "output_stride": 4})
    model = DeepLabV2.build(config, NAMES[:3], seed=0)
    assert model(torch.randn(2, 3, 64, 32))[-1].shape == (2, 3, 16, 8)
    with pytest.raises(InputError, match="ends at stride 16"):
        DeepLabV2.build(config.model_copy(update={"output_stride": 32}), NAMES[:3], seed=0)


def test_begins_from_a_folder_with_frozen_batch_norm(tmp_path: Path) -> None:
    torch.manual_seed(0)
    sizes = {**SHAPE.model_dump(), "num_labels": 7}
    classifier = ResNetForImageClassification(ResNetConfig(**sizes))
    for norm in (m for m in classifier.modules() if isinstance(m, nn.BatchNorm2d)):
        norm.running_mean.normal_()
    classifier.save_pretrained(tmp_path)
    config = DeepLabConfig(init="weights", weights=tmp_path, rates=(1, 2))
    model = DeepLabV2.build(config, NAMES[:4], seed=0)
    want = classifier.resnet.state_dict()
    assert all(torch.equal(t, want[n]) for n, t in model.backbone.state_dict().items())
    model.train()
    norms = [m for m in model.modules() if isinstance(m, nn.BatchNorm2d)]
    assert norms and not any(norm.training or norm.weight.requires_grad for norm in norms)
    assert model.backbone.encoder.training and model.aspp[0].weight.requires_grad
    model(torch.randn(2, 3, 64, 64))[-1].sum().backward()
    assert all(torch.equal(t, want[n]) for n, t in model.backbone.state_dict().items())


def test_saved_network_is_the_same(tmp_path: Path) -> None:
    model = DeepLabV2.build(RANDOM, NAMES[:4], seed=3).eval()
    loaded = DeepLabV2.from_pretrained(model.save_pretrained(tmp_path / "net"))
    images = torch.randn(1, 3, 40, 48)
    assert torch.equal(model(images)[-1], loaded(images)[-1])
    assert loaded.classes == NAMES[:4]
    assert json.loads((tmp_path / "net" / CONFIG).read_text())["network"]["weights"] is None
    other = DeepLabV2.build(RANDOM, NAMES[:4], seed=4)
    assert not torch.equal(other.aspp[0].weight, model.aspp[0].weight)
    again = DeepLabV2.build(RANDOM, NAMES[:4], seed=3)
    assert torch.equal(again.aspp[0].weight, model.aspp[0].weight)


def test_bad_beginnings_are_named(tmp_path: Path) -> None:
    for wrong in (
        {"init": "weights"},
        {"init": "weights", "weights": "x", "shape": SHAPE},
        {"init": "random"},
        {"init": "random", "shape": SHAPE, "weights": "x"},
        {"init": "random", "shape": SHAPE, "scales": (0.5, 1.0)},
    ):
        with pytest.raises(ValidationError):
            DeepLabConfig(**wrong)
    with pytest.raises(InputError, match="frozen needs weights"):
        DeepLabV2.build(RANDOM.model_copy(update={"batch_norm": "frozen"}), NAMES[:3], seed=0)

    folder = tmp_path / "resnet"
    config = DeepLabConfig(init="weights", weights=folder)
    with pytest.raises(InputError, match="config.json"):
        DeepLabV2.build(config, NAMES[:3], seed=0)
    folder.mkdir()
    (folder / CONFIG).write_text('{"model_type": "bert"}')
    with pytest.raises(InputError, match="'bert' is not 'resnet'"):
        DeepLabV2.build(config, NAMES[:3], seed=0)
    ResNetModel(ResNetConfig(**SHAPE.model_dump())).save_pretrained(folder)
    state = load_file(folder / WEIGHTS)
    state.pop("embedder.embedder.convolution.weight")
    save_file(state, folder / WEIGHTS, metadata={"format": "pt"})
    with pytest.raises(InputError, match="embedder.embedder.convolution.weight"):
        DeepLabV2.build(config, NAMES[:3], seed=0)
    with pytest.raises(InputError, match="network"):
        DeepLabV2.from_pretrained(folder)
