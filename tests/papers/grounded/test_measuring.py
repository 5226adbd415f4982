"""Measuring masks of names on samples."""

from __future__ import annotations

import json
from collections.abc import Sequence
from pathlib import Path

import numpy as np
import pytest
import tiny_grounded
from numpy.typing import NDArray
from recipes import recipe

from diffground.errors import InputError
from diffground.papers.grounded.learning_config import MeasuringConfig
from diffground.papers.grounded.measuring import (
    groups_of,
    measure,
    predictions,
    report_measures,
    shown,
)
from diffground.papers.grounded.samples import Sample, Samples


class Truthful:
    """Finds the true masks, and scores the rest just as high as its threshold."""

    threshold = 0.5

    def __init__(self) -> None:
        self.batches: list[int] = []

    def scores(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        self.batches.append(len(samples))
        return [0.5 + 0.5 * sample.masks.astype(np.float32) for sample in samples]


@pytest.fixture
def samples(tmp_path: Path) -> Samples:
    return tiny_grounded.separable(tmp_path, "test", 5, alone=True)


def test_the_truth_has_all(samples: Samples) -> None:
    grounder = Truthful()
    found = measure(grounder, samples, batch=2).result()
    assert (found["class"], found["image"], found["images"]) == (100, 100, 5)
    assert found["absent"] == {"asked": 5, "found": 0.0, "area": 0.0}
    assert grounder.batches == [2, 2, 1]


def test_a_batch_is_in_memory_and_no_more(samples: Samples) -> None:
    grounder = Truthful()
    first = next(predictions(grounder, samples, 2))
    assert first.sample.id == samples.records[0].id
    assert grounder.batches == [2]


def config(**changes: object) -> MeasuringConfig:
    return recipe(MeasuringConfig, **{"groups": {"seen": "a", "unseen": "b"}, **changes})


def test_groups_are_by_themselves(samples: Samples) -> None:
    chosen = {"a": samples[:2], "b": samples[2:3], "other": samples[3:]}
    found = report_measures(Truthful(), chosen, config(), "mini", "truth")
    assert {n: each["images"] for n, each in found["groups"].items()} == {"seen": 2, "unseen": 1}
    assert (found["scale"], found["grounder"], found["threshold"]) == ("mini", "truth", 0.5)
    json.dumps(found, allow_nan=False)
    with pytest.raises(InputError, match="groups.unseen: there is no set 'c', there are a, b"):
        groups_of(chosen, config(groups={"unseen": "c"}))


def test_predictions_that_are_shown(samples: Samples) -> None:
    found = shown(Truthful(), {"a": samples, "b": samples[:1]}, config(figures=2))
    assert [len(each) for each in found.values()] == [2, 1]
    ids = [each.sample.id for each in found["seen"]]
    assert ids == [samples.records[0].id, samples.records[2].id]
    for each in found["seen"]:
        assert (each.masks == each.sample.masks).all()


def test_no_samples_are_an_error(samples: Samples) -> None:
    with pytest.raises(InputError, match="no sample was taken of it"):
        measure(Truthful(), samples[:0])
