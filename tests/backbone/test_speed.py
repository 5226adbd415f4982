"""Half precision, memory order and compiled blocks, each beside float32 as it is written.

On the processor in every run, on a GPU with `pytest -m gpu tests/backbone/test_speed.py`.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from diffusers.models.resnet import ResnetBlock2D
from random_model import random_model

from diffground.backbone import speed
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.probe import ProbeRequest
from diffground.backbone.sampler import sample
from diffground.backbone.speed import quickened

ROOT = Path(__file__).parents[2]
INSIDE = "down_blocks.0.resnets.0.conv1"  # inside of a residual block
GPU = [
    pytest.mark.gpu,
    pytest.mark.skipif(not torch.cuda.is_available(), reason="there is no GPU"),
]
DEVICES = ["cpu", pytest.param("cuda", marks=GPU)]
#: Of attention maps, which are probabilities: the largest difference, and the mean one.
TOLERANCES = {torch.bfloat16: (0.1, 0.005), torch.float16: (0.02, 0.001)}


@pytest.fixture
def eagerly(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    """Blocks are captured as for a compiler, and run without one."""
    monkeypatch.setattr(speed, "BACKEND", "aot_eager")
    yield
    torch.compiler.reset()


def mini(**more: Any) -> FrozenDiffusion:
    return FrozenDiffusion.from_pretrained(ROOT / "data/06_models/mini-sd", **more)


def maps(model: FrozenDiffusion) -> dict[str, torch.Tensor]:
    """Cross- and self-attention of one noisy latent, float32 on the processor."""
    latents = torch.randn(1, 4, 16, 16, generator=torch.Generator().manual_seed(0))
    context = model.encode_prompts(["a photo of a red ball on grass"]).embeddings
    layers = model.layers
    request = ProbeRequest(cross=layers.cross, self_=(layers.self_layer,))
    with torch.no_grad():
        found = model.probe(latents.to(model.device, model.dtype), 150, context, request)
    return {name: value.float().cpu() for name, value in (found.cross | found.self_).items()}


@pytest.mark.parametrize(
    ("device", "dtype"),
    [
        ("cpu", torch.bfloat16),
        pytest.param("cuda", torch.bfloat16, marks=GPU),
        pytest.param("cuda", torch.float16, marks=GPU),
    ],
)
def test_half_precision_gives_the_maps_of_float32(device, dtype):
    exact, half = maps(mini(device=device)), maps(mini(device=device, dtype=dtype))
    largest, mean = TOLERANCES[dtype]
    assert exact.keys() == half.keys() and len(exact) > 2
    for name, values in half.items():
        difference = (values - exact[name]).abs()
        assert 0 < difference.max() < largest and difference.mean() < mean, name


@pytest.mark.parametrize("device", DEVICES)
def test_the_order_in_memory_changes_roundings_alone(device):
    plain, quick = random_model("tiny").to(device), random_model("tiny").to(device)
    for network in (quick.unet, quick.vae):
        quickened(network)
    first = quick.unet.down_blocks[0].resnets[0].conv1.weight
    assert first.is_contiguous(memory_format=torch.channels_last)
    image = torch.rand(1, 3, 64, 64, generator=torch.Generator().manual_seed(0)) * 2 - 1
    request = ProbeRequest(features=("mid_block", "up_blocks.1"))
    results = []
    for model in (plain, quick):
        with torch.no_grad():
            latents = model.encode_images(image.to(device))
            context = model.encode_prompts(["a cat"]).embeddings
            found = model.probe(latents, 100, context, request)
            results.append([latents, *found.features.values(), model.decode_latents(latents)])
    for one, other in zip(*results, strict=True):
        torch.testing.assert_close(one, other, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("device", DEVICES)
def test_compiled_blocks_give_the_same_maps_features_and_gradients(device, eagerly):
    plain, quick = random_model("tiny").to(device), random_model("tiny").to(device)
    quickened(quick.unet, compiled=True)
    blocks = [m for m in quick.unet.modules() if isinstance(m, ResnetBlock2D)]
    assert all("forward" in vars(block) for block in blocks)
    layers = plain.layers
    # A tap inside of a block has to be seen although the block is compiled.
    request = ProbeRequest(
        cross=layers.cross, self_=(layers.self_layer,), features=("mid_block", INSIDE)
    )
    results = []
    for model in (plain, quick):
        latents = torch.randn(1, 4, 8, 8, generator=torch.Generator().manual_seed(0)).to(device)
        latents.requires_grad_()
        context = model.encode_prompts(["a cat"]).embeddings
        found = model.probe(latents, 100, context, request, checkpoint=True)
        found.features["mid_block"].square().sum().backward()
        assert latents.grad is not None
        results.append(found.cross | found.self_ | found.features | {"gradient": latents.grad})
    assert results[0].keys() == results[1].keys() >= {INSIDE}
    for name, values in results[0].items():
        torch.testing.assert_close(results[1][name], values, rtol=1e-3, atol=1e-4, msg=name)
    assert all("forward" in vars(block) for block in blocks), "they are compiled as before"


def test_generation_with_compiled_blocks_is_watched_inside_of_them(eagerly):
    model = random_model("tiny")
    request = ProbeRequest(features=(INSIDE,))
    encoding = model.encode_prompts(["a cat"])

    def last() -> Any:
        return [*sample(model, encoding, [0], steps=2, guidance=5.0, probe=request, at=[-1])][-1]

    written = last()
    quickened(model.unet, compiled=True)
    compiled = last()
    torch.testing.assert_close(compiled.latents, written.latents, rtol=1e-3, atol=1e-3)
    for step in (written, compiled):
        assert step.probe is not None and INSIDE in step.probe.features


@pytest.mark.parametrize("device", [pytest.param("cuda", marks=GPU)])
def test_blocks_compiled_for_a_gpu(device):
    """With the real compiler, which takes minutes on a processor."""
    dtype = torch.bfloat16
    plain, quick = (
        maps(mini(device=device, dtype=dtype)),
        maps(mini(device=device, dtype=dtype, compiled=True)),
    )
    largest, mean = TOLERANCES[dtype]
    for name, values in quick.items():
        difference = (values - plain[name]).abs()
        assert difference.max() < largest and difference.mean() < mean, name
