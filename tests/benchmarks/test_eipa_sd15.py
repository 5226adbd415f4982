"""EIPA in a UNet of Stable Diffusion 1.5's sizes, random weights: one step, its time and memory.

pytest -m benchmark tests/benchmarks/test_eipa_sd15.py -s

Takes the GPU if there is one (bfloat16), else the processor (float32: 66 s on one
core, peak 4.4 GiB of which the weights are 3.6).
``DIFFGROUND_BENCHMARK_SIZE`` is the image side in pixels (512), ``..._BATCH`` the batch (1); the
result is appended to data/08_reporting/benchmarks.jsonl.
"""

from __future__ import annotations

import json
import os
import platform
import resource
import time
from pathlib import Path

import pytest
import torch
from diffusers import UNet2DConditionModel

from diffground.backbone.layers import cross_sites
from diffground.backbone.probe import ProbeRequest, probe_unet
from diffground.png.eipa import EIPA, EipaConfig, insertion_sites
from diffground.png.heads import AdapterHead, DiffusionHead
from diffground.png.losses import LossConfig, png_losses

PHRASES = 12
RESULTS = Path(__file__).parents[2] / "data/08_reporting/benchmarks.jsonl"

# Everything else is diffusers' default, as in the released model's config.
SD15 = {
    "sample_size": 64,
    "block_out_channels": (320, 640, 1280, 1280),
    "cross_attention_dim": 768,
    "attention_head_dim": 8,
    "layers_per_block": 2,
}


@pytest.mark.benchmark
@pytest.mark.parametrize("checkpoint", [True])
def test_one_training_step_at_stable_diffusion_sizes(checkpoint, capsys):
    size = int(os.environ.get("DIFFGROUND_BENCHMARK_SIZE", "512"))
    batch = int(os.environ.get("DIFFGROUND_BENCHMARK_BATCH", "1"))
    device = "cuda" if torch.cuda.is_available() else "cpu"
    dtype = torch.bfloat16 if device == "cuda" else torch.float32
    torch.manual_seed(0)
    with torch.device(device):
        unet = UNet2DConditionModel(**SD15).to(dtype).requires_grad_(False).eval()
        sites = cross_sites(unet)
        modules = dict(unet.named_modules())
        chosen = insertion_sites(sites, "both")
        head = DiffusionHead(sites)
        eipa = EIPA(
            {site: modules[site].to_q.in_features for site in chosen},
            768,
            EipaConfig(),
            head.weight,
        )
        adapter_head = AdapterHead(len(chosen), 768, 133)
        latents = torch.randn(batch, 4, size // 8, size // 8, dtype=dtype)
        phrases = torch.randn(batch, PHRASES, 768, dtype=dtype)
        valid = torch.ones(batch, PHRASES, dtype=torch.bool)
        targets = (torch.rand(batch, PHRASES, size // 4, size // 4) > 0.8).float()
        categories = torch.randint(0, 133, (batch, PHRASES))
    assert sum(p.numel() for p in unet.parameters()) == 859_520_964  # the released model's
    assert len(chosen) == 15
    assert sum(p.numel() for p in eipa.parameters()) == 3_365_600
    before = _memory(device)
    if device == "cuda":
        torch.cuda.reset_peak_memory_stats()

    started = time.perf_counter()
    with torch.autocast(device, torch.bfloat16, enabled=device == "cuda"):
        result = probe_unet(
            unet,
            latents,
            1,
            phrases,
            ProbeRequest(cross=sites),
            context_mask=valid,
            adapter=eipa,
            checkpoint=checkpoint,
        )
        outputs = eipa.outputs(result.state)
        grid = (size // 4, size // 4)
        masks = adapter_head(outputs.phrases, outputs.scores, grid)
        fused = head(result.cross, grid)
        loss = png_losses(fused, masks, targets, categories, valid, LossConfig())["loss"]
    forward = time.perf_counter() - started
    loss.backward()
    seconds = time.perf_counter() - started

    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in eipa.parameters())
    assert all(p.grad is None for p in unet.parameters())
    row = {
        "what": "EIPA, one forward and backward, SD 1.5 sizes",
        "size": size,
        "batch": batch,
        "phrases": PHRASES,
        "checkpoint": checkpoint,
        "dtype": str(dtype).removeprefix("torch."),
        "device": torch.cuda.get_device_name() if device == "cuda" else platform.machine(),
        "threads": torch.get_num_threads(),
        "forward_s": round(forward, 2),
        "total_s": round(seconds, 2),
        "peak_gib": round(_memory(device), 2),
        "before_gib": round(before, 2),
    }
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as stream:
        stream.write(json.dumps(row) + "\n")
    with capsys.disabled():
        os.write(1, f"\n{json.dumps(row, indent=2)}\n".encode())


def _memory(device: str) -> float:
    """Peak memory so far in GiB: of the GPU's tensors, or of the process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if platform.system() == "Darwin" else 2**20)
