"""Evaluation depends on neither batch size, order nor number of processes."""

from __future__ import annotations

import json
import random
from dataclasses import replace
from pathlib import Path

import numpy as np
import pytest
import tiny_png
from recipes import recipe
from several import run_together

from diffground.backbone.frozen import FrozenDiffusion
from diffground.data.png_benchmark import PngBenchmark, PngSample
from diffground.papers.png.evaluate import PngEvalConfig, PngEvaluation, evaluate
from diffground.papers.png.model import PngModel

# Which of the seven samples (1 and 5 are broken) are evaluated, and with which batch size.
CASES = {
    "one more than a multiple": ([0, 1, 2, 3, 4, 5, 6], 1),
    "batches": ([0, 1, 2, 3, 4, 5, 6], 2),
    "one process has only broken ones": ([0, 1, 2, 5, 3], 1),
    "one process has none": ([2], 1),
    "all broken": ([1, 5], 2),
}


def model(folder: Path, **options) -> PngModel:
    """Zero-shot: nothing but the frozen model's weights, the same in every process."""
    frozen = FrozenDiffusion.from_pretrained(folder)
    return tiny_png.model(frozen, insertion="none", decode=False, **options)


def seven(root: Path) -> list[PngSample]:
    """The four narratives, the second's image broken, and three of them under another id."""
    four, _ = PngBenchmark(root, "val2017").read()
    return [*four, *(replace(sample, id=f"again-{sample.id}") for sample in four[:3])]


def measured(png: PngModel, samples, size: int = 1, **options) -> PngEvaluation:
    config = recipe(PngEvalConfig, batch_size=size, **{"overlays": 3, **options})
    return evaluate(png, tiny_png.dataset(samples), config)


def content(result: PngEvaluation) -> dict:
    """All of a result, JSON-ready."""
    return {
        "rows": result.rows,
        "recall": result.recall.result(),
        "report": result.report.to_dict(),
        "predictions": [
            [p.sample.id, p.prob.tolist(), p.target.sum((1, 2)).tolist(), p.iou.tolist()]
            for p in result.predictions
        ],
    }


def work(rank: int, folder: Path, root: Path, out: Path) -> None:
    """One process: evaluates every case and writes what it got."""
    png, samples = model(folder, threshold=0.4), seven(root)
    found = {
        name: content(measured(png, [samples[i] for i in chosen], size))
        for name, (chosen, size) in CASES.items()
    }
    (out / f"{rank}.json").write_text(json.dumps(found))


@pytest.fixture(scope="module")
def root(tmp_path_factory) -> Path:
    """A benchmark of which one image is broken."""
    root = tiny_png.make_benchmark(tmp_path_factory.mktemp("png"), ("val2017",))
    broken = next((root / "images/val2017").glob("*2.png"))
    broken.write_bytes(broken.read_bytes()[:100])
    return root


@pytest.fixture(scope="module")
def png() -> PngModel:
    return model(tiny_png.backbone().folder, threshold=0.4)


def by_key(result: PngEvaluation) -> dict:
    return {(row["narrative"], row["phrase"]): row for row in result.rows}


@pytest.mark.parametrize("protocol", ["original", "ppmn", "png_soft"])
def test_neither_batch_size_nor_order_matters(png, protocol):
    samples = tiny_png.samples()
    one = by_key(measured(png, samples, 1, protocol=protocol))
    values = [row["iou"] for row in one.values()]
    assert len(one) == 7 and len(set(values)) == 7 and max(values) > 0.2
    for seed, size in enumerate((1, 2, 3, 4)):
        shuffled = random.Random(seed).sample(samples, len(samples))
        result = measured(png, shuffled, size, protocol=protocol)
        assert [row["narrative"] for row in result.rows] == [
            sample.id for sample in shuffled for _ in sample.phrases
        ]
        other = by_key(result)
        assert other.keys() == one.keys()
        for key, row in one.items():
            assert other[key] == {**row, "iou": pytest.approx(row["iou"], abs=1e-4)}
            assert size > 1 or other[key] == row  # alone in a batch: not a bit


def test_broken_samples_are_skipped_and_reported_in_order(png, root):
    samples = seven(root)
    result = measured(png, samples, 2)
    assert [problem.item for problem in result.report.problems] == ["2_1", "again-2_1"]
    assert result.report.total == 7 and result.recall.phrases == len(result.rows) == 9
    kept = [prediction.sample.id for prediction in result.predictions]
    assert kept == ["1_0", "3_2", "4_3"]
    nothing = measured(png, [samples[1], samples[5]], 2)
    assert nothing.rows == [] and nothing.predictions == []
    assert nothing.recall.result()["overall"] is None and len(nothing.report.problems) == 2


def test_a_sample_given_twice_counts_once(png):
    samples = tiny_png.samples()
    twice, once = measured(png, [*samples, samples[0]]), measured(png, samples)
    assert twice.rows == once.rows and twice.recall.result() == once.recall.result()


def test_the_model_is_left_as_it_was(png):
    for training in (True, False):
        png.train(training)
        measured(png, tiny_png.samples()[:1])
        assert png.training is training


def test_a_phrase_lost_to_truncation_scores_nothing():
    sample = tiny_png.samples()[0]
    first, second = sample.phrases
    caption = "ball " + "z " * 90 + "grass"  # a token per letter: the second is beyond 77
    phrases = (
        replace(first, text="ball", start=0, end=4),
        replace(second, text="grass", start=len(caption) - 5, end=len(caption)),
    )
    long = replace(sample, caption=caption, phrases=phrases)
    png = model(tiny_png.backbone().folder, long_captions="truncate", threshold=0.1)
    result = measured(png, [long])
    assert [row["text"] for row in result.rows] == ["ball", "grass"]
    assert result.rows[1]["iou"] == 0 and not result.predictions[0].prob[1].any()
    assert result.report.problems == []


@pytest.fixture(scope="module")
def together(root, tmp_path_factory) -> list[dict]:
    """What each of two gloo processes got, by case."""
    out = tmp_path_factory.mktemp("together")
    run_together(work, tiny_png.backbone().folder, root, out)
    return [json.loads((out / f"{rank}.json").read_text()) for rank in (0, 1)]


@pytest.mark.parametrize("case", CASES)
def test_two_processes_give_what_one_gives(png, root, together, case):
    chosen, size = CASES[case]
    alone = content(measured(png, [seven(root)[i] for i in chosen], size))
    first, second = (found[case] for found in together)
    assert first == second  # every process has the whole result
    for mine, other in zip(first["rows"], alone["rows"], strict=True):
        # batches hold other samples: float sums may differ in their last bits
        assert mine == {**other, "iou": pytest.approx(other["iou"], abs=1e-4)}
    assert first["recall"] == pytest.approx(alone["recall"], abs=1e-2)
    assert first["report"] == alone["report"]
    assert [entry[0] for entry in first["predictions"]] == [e[0] for e in alone["predictions"]]
    for mine, other in zip(first["predictions"], alone["predictions"], strict=True):
        np.testing.assert_allclose(mine[1], other[1], atol=1e-5)
        assert mine[2] == other[2]
    assert size > 1 or first == alone
