"""What a second process of Ray with a model adds: attention maps by one, and by two.

pytest -m benchmark tests/benchmarks/test_ray_scaling.py -s

Maps of a tiny random model, some tenths of a second each, on one thread a process. A process takes
seconds to start and load its model, and does that once: the rate is that of the images beyond the
first few. It needs two processors that nobody else uses, and a minute or two. Rows are appended to
data/08_reporting/benchmarks.jsonl.
"""

from __future__ import annotations

import time
from importlib.util import find_spec
from pathlib import Path
from typing import Any

import pytest
import tiny_text2mask
import torch
from measuring import device_name, keep

from diffground.papers.text2mask.experiment import aggregate
from diffground.store import ray_pool
from diffground.store.config import RayConfig

FEW, MANY = 6, 86
VARIANTS = {1: "one process with a model", 2: "two processes with a model"}


@pytest.mark.benchmark
@pytest.mark.skipif(find_spec("ray") is None, reason="ray is not installed")
def test_a_second_process(tmp_path: Path) -> None:
    ray = ray_pool._started(RayConfig())  # not under the clock
    tiny_text2mask.frozen(), tiny_text2mask.world()
    rows: list[dict[str, Any]] = []
    try:
        for models in (*VARIANTS, *VARIANTS):
            few, many = (taken(tmp_path / f"{len(rows)}-{n}", models, n) for n in (FEW, MANY))
            rows.append({
                "what": "attention maps by Ray",
                "variant": VARIANTS[models],
                "device": device_name("cpu"),
                "threads": torch.get_num_threads(),
                "images_per_s": round((MANY - FEW) / (many - few), 2),
            })  # fmt: skip
    finally:
        ray.shutdown()
    for one, two in (rows[:2], rows[2:]):
        two["images_per_s_ratio"] = round(two["images_per_s"] / one["images_per_s"], 3)
    keep(rows)


def taken(folder: Path, models: int, count: int) -> float:
    """Seconds for so many images."""
    work = {"executor": "ray", "ray": RayConfig(models=models).model_dump(), "workers": 0}
    images = tiny_text2mask.many(folder, count, attention={"noises": 150}, work=work)
    started = time.perf_counter()
    assert aggregate(images, tiny_text2mask.frozen())["made"] == count
    return time.perf_counter() - started
