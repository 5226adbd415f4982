"""A training step of the PNG model in Stable Diffusion 1.5: what its three savings are worth.

pytest -m benchmark tests/benchmarks/test_png_step_sd15.py -s

The step is forward, backward and AdamW of the full model (EIPA, MLMA, decoder) in a UNet of the
true sizes with random weights, 512 px, batch 1, 12 phrases, with activation checkpointing, fused
attention (SDPA) and latents from the cache. Beside it, the same step (a) without checkpointing,
(b) with eager attention in the UNet and the VAE, (c) without the cache, so that the VAE and the
text encoder run. Each has a process of its own, one after the other; ratios are to the first.
``utilisation`` is the share of the device's rate, that of a product of large matrices measured
beside it, which the model's work takes: the FLOP of (a), in which nothing is computed twice.

Takes the GPU if there is one (1024 px, bfloat16; the second of two steps is measured; also with
compiled blocks), else the processor (512 px, float32; the only step, about a minute each on one
core, and its own time: others may run). Peak memory is that of the GPU's tensors, or the process's
resident set, in which the weights of all parts are 4.0 GiB.
``DIFFGROUND_BENCHMARK_SIZE`` is the image side in pixels, ``..._BATCH`` the batch (1),
``..._ARCHITECTURE`` sd15 or tiny (to try the test itself); rows are appended to
data/08_reporting/benchmarks.jsonl.
"""

from __future__ import annotations

import json
import os
import sys
from contextlib import nullcontext
from typing import Any

import pytest
import torch
from diffusers.models.attention_processor import AttnProcessor
from measuring import (
    compared,
    device_name,
    in_own_processes,
    matmul_rate,
    now,
    peak_memory,
    synchronise,
)
from random_model import random_model
from recipes import recipe
from torch.utils.flop_counter import FlopCounterMode

from diffground.backbone.speed import quickened
from diffground.backbone.taps import Processor
from diffground.papers.png.config import LossConfig, PngModelConfig
from diffground.papers.png.feature_store import FrozenInputs
from diffground.papers.png.losses import png_losses
from diffground.papers.png.model import PngModel
from diffground.papers.png.narratives import PngBatch

PHRASES = 12
CLASSES = tuple(range(133))  # of COCO panoptic
VARIANTS = {
    "step": "checkpointing, SDPA, cached latents",
    "no_checkpoint": "no activation checkpointing",
    "eager": "eager attention",
    "no_cache": "VAE and text encoder in every step",
}
COMPILED = {"compiled": "compiled residual blocks"}  # on a GPU


@pytest.mark.benchmark
def test_one_training_step_at_stable_diffusion_sizes(capsys):
    gpu = torch.cuda.is_available()
    size = int(os.environ.get("DIFFGROUND_BENCHMARK_SIZE", "1024" if gpu else "512"))
    batch = int(os.environ.get("DIFFGROUND_BENCHMARK_BATCH", "1"))
    architecture = os.environ.get("DIFFGROUND_BENCHMARK_ARCHITECTURE", "sd15")
    variants = VARIANTS | (COMPILED if gpu else {})
    rows = in_own_processes(__file__, variants, [architecture, size, batch])
    for row in rows.values():
        if architecture == "sd15":
            assert row["unet_parameters"] == 859_520_964  # the released model's
            assert row["adapter_parameters"] == 3_365_600
        assert row["sites"] == 15
        work = rows["no_checkpoint"]["tflop"]
        row["utilisation"] = round(work / row["step_s"] / row["matmul_tflop_s"], 3)
    compared(rows, "step", ("step_s", "peak_gib"))
    with capsys.disabled():
        os.write(1, _table(rows).encode())


def measure(variant: str, architecture: str, size: int, batch: int) -> dict[str, Any]:
    """One variant's step, in this process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    model = build(architecture, variant, dtype).to(device).train()
    inputs = make_batch(model, variant, size, batch).to(device)
    assert model.eipa is not None
    optimizer = torch.optim.AdamW(model.trainable_parameters(), 1e-4)
    loss_config = recipe(LossConfig)

    work = 0.0
    for number in range(2 if device == "cuda" else 1):  # a GPU picks its kernels in the first step
        optimizer.zero_grad(set_to_none=True)
        synchronise(device)
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        counts = variant == "no_checkpoint" and number == 0  # costs time on a GPU: not the last's
        before, started = peak_memory(device), now(device)
        with FlopCounterMode(display=False) if counts else nullcontext() as counter:
            with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
                outputs = model(inputs)
                loss = png_losses(outputs, inputs.targets, inputs.categories, loss_config)["loss"]
            forward = now(device) - started
            loss.backward()
            optimizer.step()
        seconds = now(device) - started
        work = counter.get_total_flops() / 1e12 if counter else work

    assert torch.isfinite(loss)
    trained = model.trainable_parameters()
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    assert all(p.grad is None for p in model.backbone.parameters())
    return {
        "what": f"PNG training step, {architecture} sizes",
        "variant": (VARIANTS | COMPILED)[variant],
        "size": size,
        "batch": batch,
        "phrases": PHRASES,
        "dtype": str(dtype).removeprefix("torch."),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "forward_s": round(forward, 3),
        "step_s": round(seconds, 3),
        "tflop": round(work, 3),  # counted without checkpointing alone
        "matmul_tflop_s": float(f"{matmul_rate(device, dtype):.4g}"),
        "before_gib": round(before, 3),
        "peak_gib": round(peak_memory(device), 3),
        "unet_parameters": sum(p.numel() for p in model.backbone.unet.parameters()),
        "adapter_parameters": sum(p.numel() for p in model.eipa.parameters()),
        "trained_parameters": sum(p.numel() for p in trained),
        "sites": len(model.eipa.sites),
    }


def build(name: str, variant: str, dtype: torch.dtype) -> PngModel:
    """The full model in a backbone with random weights, which need no folder."""
    backbone = random_model(name, dtype)
    if variant == "eager":
        Processor.fused = AttnProcessor()  # where the probe's processor captures nothing
        for network in (backbone.unet, backbone.vae):
            network.set_attn_processor(AttnProcessor())
    if torch.cuda.is_available():
        quickened(backbone.unet, compiled=variant == "compiled")
    config = recipe(PngModelConfig, checkpoint=variant != "no_checkpoint")
    torch.manual_seed(0)
    return PngModel(backbone, config, CLASSES)


def make_batch(model: PngModel, variant: str, size: int, batch: int) -> PngBatch:
    """Noise in the shapes of narratives of twelve phrases; images and words, or their features."""
    torch.manual_seed(0)
    words = [f"ball{' and' if i % 3 else ' on grass,'}" for i in range(PHRASES)]
    starts = [sum(len(word) + 1 for word in words[:i]) for i in range(PHRASES)]
    features = None
    if variant != "no_cache":
        features = FrozenInputs(
            torch.randn(batch, 4, size // 8, size // 8, dtype=torch.float16),
            torch.randn(batch, PHRASES, model.backbone.context_dim, dtype=torch.float16),
            torch.ones(batch, PHRASES, dtype=torch.bool),
            None,
        )
    return PngBatch(
        ids=tuple(str(i) for i in range(batch)),
        captions=(" ".join(words),) * batch,
        spans=(tuple((start, start + len("ball")) for start in starts),) * batch,
        images=torch.rand(batch, 3, size, size) * 2 - 1 if features is None else None,
        targets=(torch.rand(batch, PHRASES, size // 4, size // 4) > 0.8).float(),
        categories=torch.randint(0, len(CLASSES), (batch, PHRASES)),
        features=features,
    )


def _table(rows: dict[str, dict[str, Any]]) -> str:
    base = rows["step"]
    lines = [
        f"\n{base['what']}, {base['size']} px, batch {base['batch']}, {base['dtype']}, "
        f"{base['device']}, {base['threads']} thread(s), "
        f"{base['trained_parameters'] / 1e6:.1f} M trained parameters",
        f"{'variant':<38} {'step':>8} {'peak':>10} {'before':>10} {'time':>6} {'memory':>7}",
    ]
    lines += [
        f"{row['variant']:<38} {row['step_s']:>6.2f} s {row['peak_gib']:>6.2f} GiB "
        f"{row['before_gib']:>6.2f} GiB {row['step_s_ratio']:>5.2f}x {row['peak_gib_ratio']:>6.2f}x"
        for row in rows.values()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))) + "\n")
