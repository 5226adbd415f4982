"""Peak memory of what goes over a whole dataset: the same for 100 items as for 10,000.

pytest -m benchmark tests/benchmarks/test_memory_of_stores.py -s

Each stage runs over tiny images with a tiny random model on the processor, in a process of its own
for every number of items, and reads what the stage before it left. What grows is the list of items
and the notes of their store (``catalog_docs/paper_scale.md``), and of evaluation a row for every
phrase: a few kB an item. An image, a map or a mask that stayed would be ten times that, and
hundreds of times at the papers' sizes.

``DIFFGROUND_BENCHMARK_ITEMS`` are the numbers of items (100,1000; 10,000 take forty minutes of one
core), ``..._STAGES`` the stages (all, see ``STAGES``); rows are appended to
data/08_reporting/benchmarks.jsonl.
"""

from __future__ import annotations

import json
import multiprocessing
import os
import time
import warnings
from collections.abc import Callable
from dataclasses import replace
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import pytest
import tiny_grounded
import tiny_personalized
import tiny_png
import tiny_text2mask
import torch
from measuring import keep, peak_memory
from recipes import recipe

from diffground.backbone import frozen as of_frozen
from diffground.papers.grounded.generation import make_set
from diffground.papers.grounded.measuring import measure as measure_samples
from diffground.papers.grounded.samples import SyntheticSet
from diffground.papers.grounded.trained import TrainedModule, new_module
from diffground.papers.personalized import experiment as personalized
from diffground.papers.personalized.rows import Bench
from diffground.papers.personalized.scenes import Scenes
from diffground.papers.png.config import FeatureExtractionConfig, PngEvalConfig
from diffground.papers.png.evaluate import evaluate
from diffground.papers.png.feature_extraction import extract_features
from diffground.papers.png.feature_store import FeatureKey
from diffground.papers.text2mask import experiment as text2mask
from diffground.papers.text2mask.keys import Split


def _images(folder: Path, count: int) -> Split:
    return tiny_text2mask.many(folder, count, masks={"crf": {"iterations": 1}})


def _maps(folder: Path, count: int) -> None:
    text2mask.aggregate(_images(folder, count), tiny_text2mask.frozen())


def _masks(folder: Path, count: int) -> None:
    text2mask.label(_images(folder, count))


def _mask_scores(folder: Path, count: int) -> None:
    result = text2mask.measure(_images(folder, count))
    assert result["complete"] and not result["skipped"]["problems"]


def _narratives(count: int) -> list[Any]:
    found = islice(enumerate(cycle(tiny_png.samples())), count)
    return [
        replace(s, id=f"{n}_0", image_id=n, row=n, image_path=Path(str(s.image_path)))
        for n, s in found
    ]


def _features(folder: Path, count: int) -> None:
    key = FeatureKey(
        backbone=tiny_png.backbone().fingerprint(), backbone_precision="float32", coco="0" * 16,
        split="train2017", code={"features": of_frozen.CODE_VERSION}, image_size=tiny_png.SIDE,
        max_phrases=30, long_captions="per_sentence", precision="float16",
    )  # fmt: skip
    config = recipe(FeatureExtractionConfig, num_workers=0, batch_size=4, block_size=50)
    done = extract_features(tiny_png.backbone(), _narratives(count), key, folder, config)
    assert done["complete"] and done["narratives"] == count


def _recall(folder: Path, count: int) -> None:
    result = evaluate(
        tiny_png.model(), tiny_png.dataset(_narratives(count)), recipe(PngEvalConfig, batch_size=1)
    )
    assert not result.report.problems


def _synthesis(count: int) -> Any:
    one = {**tiny_grounded.TINY["sets"]["train"], "attempts": count}
    # One step: what is generated matters less than how often.
    return tiny_grounded.config(sets={"train": one}, generation={"steps": 1, "batch": 8})


def _samples(folder: Path, count: int) -> None:
    assert tiny_grounded.made(folder, _synthesis(count))["complete"]


def _sample_scores(folder: Path, count: int) -> None:
    config = _synthesis(count)
    made = make_set(  # finds all made
        "train", tiny_grounded.attempts(config), tiny_grounded.frozen(config),
        tiny_grounded.segmenter(), folder, config,
    )  # fmt: skip
    samples, _ = SyntheticSet.open(folder / made["folder"]).chosen(config.choice)
    card, model = tiny_grounded.card(), tiny_png.backbone()
    measure_samples(TrainedModule(new_module(model, card.module, 0), model, card), samples)


def _scenes(count: int) -> Scenes:
    scenes = tiny_personalized.scenes(limit=None)
    found = islice(enumerate(cycle(scenes.views)), count)
    return replace(scenes, views=tuple(replace(v, id=f"v{n:06d}") for n, v in found))


def _answers(folder: Path, count: int) -> None:
    config = tiny_personalized.config(method="context")
    bench = Bench(config, tiny_personalized.frozen(), _no_token)
    done = personalized.answer(_scenes(count), bench, folder / "tokens", folder)
    assert done["complete"]


def _answer_scores(folder: Path, count: int) -> None:
    (answers,) = (path for path in folder.glob("context-*") if path.is_dir())
    config = tiny_personalized.config(method="context")
    result = personalized.measure(_scenes(count), answers, config)
    assert not result["skipped"]["problems"]


def _no_token(query: Any) -> Any:
    raise AssertionError(f"{query} asks for a token")


#: In the order in which they read each other's files.
STAGES: dict[str, Callable[[Path, int], None]] = {
    "attention maps": _maps,
    "pseudo masks": _masks,
    "mIoU of pseudo masks": _mask_scores,
    "PNG features": _features,
    "Average Recall": _recall,
    "synthetic samples": _samples,
    "mIoU of samples": _sample_scores,
    "personalised answers": _answers,
    "scores of answers": _answer_scores,
}


@pytest.mark.benchmark
def test_memory_does_not_grow_with_the_number_of_items(tmp_path, capsys):
    counts = [int(n) for n in os.environ.get("DIFFGROUND_BENCHMARK_ITEMS", "100,1000").split(",")]
    stages = os.environ.get("DIFFGROUND_BENCHMARK_STAGES", ",".join(STAGES)).split(",")
    for prepare in (tiny_png.backbone, tiny_png.benchmark, tiny_grounded.segmenter,
                    tiny_text2mask.world, tiny_personalized.world):  # fmt: skip
        prepare()  # what all stages read is made before they are forked
    for stage in stages:
        first: dict[str, Any] = {}
        for count in counts:
            # A fork: its peak begins with what the libraries take, which are loaded once.
            with multiprocessing.get_context("fork").Pool(1) as pool:
                row = pool.apply(measure, (stage, tmp_path / str(count), count))
            first = first or row
            more = max(1, count - first["items"])
            row["kib_an_item"] = round((row["peak_gib"] - first["peak_gib"]) * 2**20 / more, 2)
            keep([row])
            with capsys.disabled():
                os.write(1, f"\n{json.dumps(row)}".encode())


def measure(stage: str, folder: Path, count: int) -> dict[str, Any]:
    """One stage over so many items, in this process."""
    folder.mkdir(parents=True, exist_ok=True)
    started, worked = time.perf_counter(), time.process_time()
    with warnings.catch_warnings(action="ignore"):  # pytest keeps all of them
        STAGES[stage](folder, count)
    return {
        "what": f"memory of {stage}",
        "variant": f"{count} items",
        "items": count,
        "threads": torch.get_num_threads(),
        "cpu_s": round(time.process_time() - worked, 2),
        "seconds": round(time.perf_counter() - started, 2),
        "peak_gib": round(peak_memory("cpu"), 5),
    }
