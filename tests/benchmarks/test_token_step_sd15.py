"""A step of learning a personal token in Stable Diffusion 1.5: time, memory, what it trains.

pytest -m benchmark tests/benchmarks/test_token_step_sd15.py -s

The step is Custom Diffusion's (keys and values of the cross-attention, and the token's embedding)
with AdamW, in a model of the true sizes with random weights, 512 px, batch 1: VAE, text encoder,
UNet, forward and backward. Without pictures of the class, which double every batch. Beside it, the
same step without checkpointing of the UNet, and textual inversion. Each has a process of its own,
one after the other; ratios are to the first.

Takes the GPU if there is one (bfloat16; the second of two steps is measured), else the processor
(float32; the only step). Peak memory is that of the GPU's tensors, or the process's resident set,
in which the weights of all parts are 4.0 GiB.
``DIFFGROUND_BENCHMARK_ARCHITECTURE`` is sd15 or tiny (to try the test itself); rows are appended to
data/08_reporting/benchmarks.jsonl.
"""

from __future__ import annotations

import json
import os
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from measuring import compared, device_name, in_own_processes, peak_memory, synchronise
from random_model import random_model

from diffground.papers.personalized.learning_config import TokenLearningConfig
from diffground.papers.personalized.lessons import Thing, collate
from diffground.papers.personalized.token_learning import Learner, lessons_of

VARIANTS: dict[str, tuple[str, dict[str, Any]]] = {
    "step": ("keys and values, checkpointing", {"checkpointing": True}),
    "no_checkpoint": ("keys and values, no checkpointing", {}),
    "inversion": (
        "textual inversion, checkpointing",
        {"checkpointing": True, "method": "textual_inversion"},
    ),
}


@pytest.mark.benchmark
def test_one_learning_step_at_stable_diffusion_sizes(capsys: pytest.CaptureFixture[str]) -> None:
    architecture = os.environ.get("DIFFGROUND_BENCHMARK_ARCHITECTURE", "sd15")
    rows = in_own_processes(__file__, VARIANTS, [architecture])
    if architecture == "sd15":
        assert rows["step"]["unet_parameters"] == 859_520_964  # the released model's
        # Of 16 layers two matrices from 768 to 320, 640 or 1280, five, five and six of them.
        assert rows["step"]["trained_parameters"] == 2 * 768 * (5 * 320 + 5 * 640 + 6 * 1280) + 768
        assert rows["inversion"]["trained_parameters"] == 768
        assert rows["step"]["peak_gib"] < rows["no_checkpoint"]["peak_gib"]
    compared(rows, "step", ("step_s", "peak_gib"))
    with capsys.disabled():
        os.write(1, _table(rows).encode())


def measure(variant: str, architecture: str) -> dict[str, Any]:
    """One variant's step, in this process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    name, options = VARIANTS[variant]
    model = random_model(architecture, torch.bfloat16 if device == "cuda" else torch.float32)
    config = TokenLearningConfig.model_validate({"prior": None, **options})
    side = model.unet.config.sample_size * model.latent_stride
    photo = np.random.default_rng(0).integers(0, 255, (side, side, 3), np.uint8)
    things = [Thing("<new1>", "mug", (photo,))]
    learner = Learner(model, things, config).to(device)
    trained = [p for p in learner.parameters() if p.requires_grad]
    optimizer = torch.optim.AdamW(trained, config.train.learning_rate)
    lesson = collate([lessons_of(model, things, config, Path())[0]])
    lesson = {k: v.to(device) if isinstance(v, torch.Tensor) else v for k, v in lesson.items()}
    with learner.hung():
        for _ in range(2 if device == "cuda" else 1):  # a GPU picks its kernels in the first step
            optimizer.zero_grad(set_to_none=True)
            synchronise(device)
            if device == "cuda":
                torch.cuda.reset_peak_memory_stats()
            before, started, worked = peak_memory(device), time.perf_counter(), time.process_time()
            loss = learner(lesson)["loss"]
            loss.backward()
            optimizer.step()
            synchronise(device)
            seconds, work = time.perf_counter() - started, time.process_time() - worked
    assert torch.isfinite(loss)
    assert all(p.grad is not None and torch.isfinite(p.grad).all() for p in trained)
    count, unet = sum(p.numel() for p in trained), sum(p.numel() for p in model.unet.parameters())
    total = count + sum(p.numel() for p in model.parameters())
    return {
        "what": f"step of learning a token, {architecture} sizes",
        "variant": name,
        "size": side,
        "batch": 1,
        "dtype": str(model.dtype).removeprefix("torch."),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        # Of a processor that others use too, its own time says more than the clock.
        "step_s": round(work if device == "cpu" else seconds, 3),
        "clock_s": round(seconds, 3),
        "before_gib": round(before, 3),
        "peak_gib": round(peak_memory(device), 3),
        "unet_parameters": unet,
        "trained_parameters": count,
        "all_parameters": total,
        "trained_share": round(count / total, 6),
    }


def _table(rows: dict[str, dict[str, Any]]) -> str:
    base = rows["step"]
    lines = [
        f"\n{base['what']}, {base['size']} px, batch {base['batch']}, {base['dtype']}, "
        f"{base['device']}, {base['threads']} thread(s)",
        f"{'variant':<36} {'step':>8} {'peak':>10} {'before':>10} {'time':>6} {'memory':>7} "
        f"{'trained':>11} {'of all':>8}",
    ]
    lines += [
        f"{row['variant']:<36} {row['step_s']:>6.2f} s {row['peak_gib']:>6.2f} GiB "
        f"{row['before_gib']:>6.2f} GiB {row['step_s_ratio']:>5.2f}x {row['peak_gib_ratio']:>6.2f}x"
        f" {row['trained_parameters']:>11,} {100 * row['trained_share']:>7.3f}%"
        for row in rows.values()
    ]
    return "\n".join(lines) + "\n"


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(sys.argv[1], sys.argv[2])) + "\n")
