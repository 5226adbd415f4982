"""Personal objects in Stable Diffusion 1.4: a scene of Mug19's size, 1137 x 640 pixels.

pytest -m benchmark tests/benchmarks/test_personal_sd14.py -s

Everything has the true sizes and random weights, in float32, and the settings are those of
``--env paper``. One scene is looked at once; then an object is asked for with a token that changes
keys and values of every cross-attention layer, as Custom Diffusion's does. Measured are the look
(VAE, the pass that gives self-attention and object area), the segments, and a query.

On a processor that takes some minutes and 8 GB of memory. ``DIFFGROUND_BENCHMARK_ARCHITECTURE`` is
sd14 or tiny (to try the test itself); rows are appended to data/08_reporting/benchmarks.jsonl.
"""

from __future__ import annotations

import json
import os
import time
from pathlib import Path

import pytest
import torch
from measuring import device_name, keep, peak_memory
from random_model import random_model
from recipes import recipe
from tiny_personalized import photographed

from diffground.backbone.personal import PersonalToken, worn
from diffground.data.mug19 import Mug19
from diffground.papers.personalized.config import PersonalizedConfig
from diffground.papers.personalized.localiser import Localiser, mean_inside
from diffground.papers.personalized.scenes import Scenes


@pytest.mark.benchmark
def test_a_scene_of_the_paper_s_size(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = os.environ.get("DIFFGROUND_BENCHMARK_ARCHITECTURE", "sd14")
    device = "cuda" if torch.cuda.is_available() else "cpu"
    scenes = Scenes.of(Mug19.read(photographed(tmp_path / "mug19")), limit=1)
    (view,) = scenes.views
    model = random_model(name).to(device)
    finder = Localiser(model, recipe(PersonalizedConfig).localiser)
    deltas = {
        key: 0.01 * torch.randn_like(parameter)
        for key, parameter in model.unet.named_parameters()
        if key.endswith(("attn2.to_k.weight", "attn2.to_v.weight"))
    }
    random = torch.Generator().manual_seed(0)
    token = PersonalToken(
        "<new1>", "mug", (torch.randn(model.context_dim, generator=random),), deltas
    )
    spent: dict[str, float] = {}

    def timed(part: str, started: float) -> None:
        if device == "cuda":
            torch.cuda.synchronize()
        spent[part] = round(time.perf_counter() - started, 2)

    started = time.perf_counter()
    scene = finder.look(view.triplets[0].load_image(), "mug", item=view.id, seed=0)
    timed("look", started)
    started = time.perf_counter()
    segments = finder.segments(scene, asked=len(view.objects))
    timed("segments", started)
    queries = scenes.objects(view)
    started = time.perf_counter()
    with worn(model, [token], other_models=True):
        timed("wearing", started)
        started = time.perf_counter()
        prompt = finder.prompt(queries[0].description, "<new1> mug")
        maps = finder.maps(scene, [prompt])
        timed("query", started)
    relevance = mean_inside(maps, segments)
    row = {
        "what": f"personal objects, {name} sizes",
        "variant": "a scene",
        "size": [1137, 640],
        "grid": list(scene.size),
        "seen": list(scene.geometry.padded),
        "segments": len(segments),
        "seconds": spent,
        "peak_gib": round(peak_memory(device), 2),
        "device": device_name(device),
        "threads": torch.get_num_threads(),
    }
    keep([row])
    with capsys.disabled():
        os.write(1, f"\n{json.dumps(row)}\n".encode())
    assert segments.shape[1:] == maps.shape[1:] == (640, 1137)
    assert relevance.shape == (1, len(segments)) and ((0 <= relevance) & (relevance <= 1)).all()
    if name == "sd14":
        assert scene.geometry.padded == (512, 896) and scene.size == (32, 56)
