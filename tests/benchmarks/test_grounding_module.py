"""The grounding modules at their true sizes against the plain order of operations.

pytest -m benchmark tests/benchmarks/test_grounding_module.py -s

Forward and backward of one image of 512 px with random features of the public codes' sizes, in
float32, with random weights: Grounded Diffusion and 003's module on Stable Diffusion 1.5, IOSD's on
SDXL-Turbo. The plain order is that of the public codes: maps are interpolated before their 1x1
convolution, masks are read from a map as large as the image, and each class goes through all of the
module (in Grounded Diffusion an image's classes go together). Each has a process of its own; the
only step is measured. ``added_gib`` is what the step adds to the weights and features, and
``activations_gib`` that without the gradients of the weights, which are the same in any order.

Some minutes on one core, and 3 GiB; ``cpu_s`` counts where others run too.
``DIFFGROUND_BENCHMARK_MODULES`` names the modules (all three),
``..._QUERIES`` the classes of the image (2, as in the papers' two-object images); rows are appended
to data/08_reporting/benchmarks.jsonl.
"""

from __future__ import annotations

import json
import os
import sys
import time
from typing import Any

import pytest
import torch
from measuring import compared, device_name, in_own_processes, peak_memory, synchronise
from plain_grounding import PlainModule

from diffground.backbone.architectures import ARCHITECTURES
from diffground.papers.grounded.feature_maps import feature_maps
from diffground.papers.grounded.losses import grounding_loss
from diffground.papers.grounded.module import GroundingModule
from diffground.papers.grounded.module_config import LossConfig
from diffground.papers.grounded.module_sizes import MODULES

BACKBONES = {"gd": ("sd15", 768), "improved": ("sd15", 768), "iosd": ("sdxl-turbo", 2048)}
PARAMETERS = {"gd": 18_796_560, "improved": 17_608_720, "iosd": 50_032_256}
ORDERS = ("plain", "ours")
SIDE = 512


@pytest.mark.benchmark
def test_a_step_of_each_module(capsys):
    names = os.environ.get("DIFFGROUND_BENCHMARK_MODULES", ",".join(BACKBONES)).split(",")
    queries = int(os.environ.get("DIFFGROUND_BENCHMARK_QUERIES", "2"))
    for name in names:
        rows = in_own_processes(__file__, ORDERS, [name, queries])
        assert {row["parameters"] for row in rows.values()} == {PARAMETERS[name]}
        compared(rows, "plain", ("cpu_s", "step_s", "added_gib", "activations_gib", "peak_gib"))
        with capsys.disabled():
            for row in rows.values():
                os.write(1, f"\n{json.dumps(row)}".encode())


def measure(order: str, name: str, queries: int) -> dict[str, Any]:
    """One order's step, in this process."""
    device = "cuda" if torch.cuda.is_available() else "cpu"
    config = MODULES[name].model_copy(update={"dropout": 0.0})
    architecture, text_width = BACKBONES[name]
    with torch.device("meta"):
        maps = feature_maps(ARCHITECTURES[architecture].build("unet"), config.features)
    torch.manual_seed(0)
    kind = PlainModule if order == "plain" else GroundingModule
    module = kind(maps, text_width, 8, config).to(device).train()
    folded = 2 if config.guided else 1
    features = {}
    for each in maps:
        side = SIDE // 8 >> each.level
        features[each.name] = torch.randn(1, folded * each.channels, side, side, device=device)
    text = torch.randn(1, queries, text_width, device=device)
    valid = torch.ones(1, queries, dtype=torch.bool, device=device)
    masks = torch.rand(1, queries, SIDE, SIDE, device=device) > 0.8
    synchronise(device)
    before, started, worked = peak_memory(device), time.perf_counter(), time.process_time()
    logits = module(features, text) if order == "plain" else module(features, text, valid)
    loss = grounding_loss(logits, masks, valid, LossConfig(loss="bce", compat="paper"))
    loss.backward()
    synchronise(device)
    seconds, work = time.perf_counter() - started, time.process_time() - worked
    assert all(p.grad is not None and p.grad.isfinite().all() for p in module.parameters())
    peak = peak_memory(device)
    parameters = sum(p.numel() for p in module.parameters())
    return {
        "what": f"grounding module {name}, forward and backward",
        "variant": order,
        "queries": queries,
        "device": device_name(device),
        "threads": torch.get_num_threads(),
        "cpu_s": round(work, 2),
        "step_s": round(seconds, 2),
        "before_gib": round(before, 3),
        "added_gib": round(peak - before, 3),
        "activations_gib": round(peak - before - 4 * parameters / 2**30, 3),
        "peak_gib": round(peak, 3),
        "parameters": parameters,
    }


if __name__ == "__main__":
    sys.stdout.write(json.dumps(measure(sys.argv[1], sys.argv[2], int(sys.argv[3]))) + "\n")
