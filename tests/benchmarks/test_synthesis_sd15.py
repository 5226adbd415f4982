"""Synthetic samples in Stable Diffusion 1.5: samples a second, beside the bare passes of the UNet.

pytest -m benchmark tests/benchmarks/test_synthesis_sd15.py -s

Sampling is that of the sets of grounded generation: guidance, DDIM, and in the last pass each
picture by itself with latents of 16 bits; then the picture that the VAE makes of its latents in 8
bits. Beside it the same number of passes of the same UNet with nothing around them. Everything has
the true sizes and random weights. The detector is not in it.

Takes the GPU if there is one (bfloat16, 50 steps, batch 8; and with ``compile``), else the
processor (float32, 1 step, batch 1: two minutes of one core), each variant in a process of its own.
``samples_per_s`` is of 50 steps, reckoned from the steps that were made.
``DIFFGROUND_BENCHMARK_STEPS``, ``..._BATCH`` and ``..._ARCHITECTURE`` (sd15, or tiny to try the
test itself); rows are appended to data/08_reporting/benchmarks.jsonl.
"""

from __future__ import annotations

import json
import os
import sys
from typing import Any

import pytest
import torch
from measuring import compared, device_name, in_own_processes, now, peak_memory
from random_model import random_model

from diffground.backbone.speed import quickened
from diffground.backbone.text import PromptEncoding
from diffground.papers.grounded.data_config import GenerationConfig
from diffground.papers.grounded.generation import generated, shown
from diffground.papers.grounded.prompts import Attempt
from diffground.papers.grounded.samples import from_8_bits, in_8_bits

VARIANTS = {"bare": "bare passes of the UNet", "samples": "samples"}
COMPILED = {"compiled": "samples, compiled"}
OF_A_SAMPLE = 50  # steps


@pytest.mark.benchmark
def test_samples_a_second(capsys):
    gpu = torch.cuda.is_available()
    steps = int(os.environ.get("DIFFGROUND_BENCHMARK_STEPS", "50" if gpu else "1"))
    batch = int(os.environ.get("DIFFGROUND_BENCHMARK_BATCH", "8" if gpu else "1"))
    architecture = os.environ.get("DIFFGROUND_BENCHMARK_ARCHITECTURE", "sd15")
    variants = VARIANTS | (COMPILED if gpu else {})
    rows = in_own_processes(__file__, variants, [architecture, steps, batch])
    compared(rows, "bare", ("seconds", "peak_gib"))
    with capsys.disabled():
        for row in rows.values():
            os.write(1, f"\n{json.dumps(row)}".encode())


@torch.no_grad()
def measure(variant: str, architecture: str, steps: int, batch: int) -> dict[str, Any]:
    """One variant, in this process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    model = random_model(architecture, torch.bfloat16 if device == "cuda" else torch.float32)
    model.to(device)
    for network in (model.unet, model.vae) if device == "cuda" else ():
        quickened(network, compiled=variant == "compiled")
    side = model.unet.config.sample_size * model.latent_stride
    config = GenerationConfig.model_validate(
        {"steps": steps, "guidance": 7.5, "scheduler": None, "size": (side, side), "batch": batch}
    )
    prompt = "a cat"
    attempts = [
        Attempt(id=str(n), prompt=prompt, names=("cat",), absent=(), seed=n) for n in range(batch)
    ]
    context = PromptEncoding.joined([model.encode_prompts([prompt])] * 2 * batch).embeddings
    latents = torch.randn(2 * batch, 4, *(model.unet.config.sample_size,) * 2)
    latents = latents.to(device, model.dtype)

    def sampled() -> tuple[float, float]:
        """Seconds of the steps, and of the pictures."""
        started = now(device)
        if variant == "bare":
            for _ in range(steps):
                model.unet(latents, 500, encoder_hidden_states=context)
            return now(device) - started, 0.0
        last = generated(model, attempts, config)
        between = now(device)
        for each in last.latents:
            shown(model, from_8_bits(*in_8_bits(each)))
        return between - started, now(device) - between

    for _ in range(2 if device == "cuda" else 1):  # a GPU picks its kernels, and compiles, at first
        if device == "cuda":
            torch.cuda.reset_peak_memory_stats()
        seconds, pictures = sampled()
    whole = seconds * OF_A_SAMPLE / steps + pictures
    return {
        "what": f"synthesis, {architecture} sizes",
        "variant": (VARIANTS | COMPILED)[variant],
        "size": side,
        "steps": steps,
        "batch": batch,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "seconds": round(seconds, 3),  # of the steps
        "pictures_s": round(pictures, 3),
        "samples_per_s": float(f"{batch / whole:.3g}"),
        "peak_gib": round(peak_memory(device), 3),
    }


if __name__ == "__main__":
    row = measure(sys.argv[1], sys.argv[2], *map(int, sys.argv[3:]))
    sys.stdout.write(json.dumps(row) + "\n")
