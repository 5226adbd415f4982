"""Answers, centre matching and scores on scenes drawn by hand."""

from __future__ import annotations

import itertools

import numpy as np
import pytest
from numpy.typing import NDArray

from diffground.metrics.assignment import (
    NOBODY,
    ReferringScores,
    answers,
    centres,
    match_centres,
)


def boxes(*columns: tuple[int, int], width: int = 20) -> NDArray[np.bool_]:
    """A mask 4 pixels high for each span of columns; an empty span is an empty mask."""
    masks = np.zeros((len(columns), 6, width), dtype=bool)
    for mask, (left, right) in zip(masks, columns, strict=True):
        mask[1:5, left:right] = True
    return masks


THREE = boxes((0, 4), (7, 11), (14, 18))


def both(relevance: list[list[float]], segments: NDArray[np.bool_] = THREE) -> list[list[int]]:
    table = np.array(relevance, dtype=np.float64)
    return [answers(table, segments, together=together).tolist() for together in (False, True)]


def test_an_object_alone_takes_its_best_and_together_they_share() -> None:
    """The first two want the same segment; together the one who loses less by it steps back."""
    bf, af = both([[0.9, 0.8, 0.1], [0.9, 0.2, 0.1], [0.3, 0.2, 0.4]])
    assert (bf, af) == ([0, 0, 2], [1, 0, 2])


def test_fewer_segments_than_objects_leave_somebody_out() -> None:
    bf, af = both([[0.9, 0.1], [0.8, 0.2], [0.3, 0.6]], THREE[:2])
    assert (bf, af) == ([0, 0, 1], [0, NOBODY, 1])


def test_more_segments_than_objects() -> None:
    bf, af = both([[0.1, 0.5, 0.4], [0.1, 0.6, 0.2]])
    assert (bf, af) == ([1, 1], [2, 1])


def test_ties_go_to_the_first() -> None:
    bf, af = both([[0.5, 0.5, 0.5], [0.5, 0.5, 0.5]])
    assert bf == [0, 0] and sorted(af) == [0, 1]


def test_empty_segments_are_no_answer() -> None:
    segments = boxes((0, 4), (3, 3), (14, 18))
    bf, af = both([[0.2, 0.9, 0.1], [0.3, 0.8, 0.1]], segments)
    assert bf == [0, 0] and sorted(af) == [0, 2]
    nothing = boxes((3, 3), (5, 5))
    assert both([[0.2, 0.9]], nothing) == [[NOBODY], [NOBODY]]
    assert both([[]], THREE[:0]) == [[NOBODY], [NOBODY]]


def test_a_relevance_that_is_no_number_is_refused() -> None:
    with pytest.raises(AssertionError, match="numbers"):
        both([[0.1, float("nan"), 0.2]])


def test_centres_are_means_of_pixels() -> None:
    masks = np.zeros((2, 4, 6), dtype=bool)
    masks[0, 1, [1, 5]] = True
    masks[1, :, 2] = True
    np.testing.assert_allclose(centres(masks), [[1, 3], [1.5, 2]])


@pytest.mark.parametrize("rule", ["distance", "order"])
def test_segments_of_other_sizes_are_matched_by_their_centres(rule: str) -> None:
    segments = boxes((13, 19), (0, 5), (6, 12))  # in another order, and larger
    assert match_centres(THREE, segments, rule).tolist() == [1, 2, 0]


@pytest.mark.parametrize(
    ("segments", "distance", "order"),
    [
        (boxes((7, 11), (14, 18)), [NOBODY, 0, 1], [NOBODY, 0, 1]),  # one was not found
        (boxes((0, 4), (5, 6), (7, 11), (14, 18)), [0, 2, 3], [0, 2, 3]),  # one is nothing
        (boxes((0, 18)), [NOBODY, 0, NOBODY], [NOBODY, 0, NOBODY]),  # all are one
        (boxes((2, 2), (0, 4)), [1, NOBODY, NOBODY], [1, NOBODY, NOBODY]),  # one has no pixel
        (boxes(), [NOBODY] * 3, [NOBODY] * 3),
    ],
)
def test_unequal_numbers_are_matched(
    segments: NDArray[np.bool_], distance: list[int], order: list[int]
) -> None:
    assert match_centres(THREE, segments, "distance").tolist() == distance
    assert match_centres(THREE, segments, "order").tolist() == order


def test_rules_differ_where_order_and_nearness_do() -> None:
    """Two things above each other, and their segments a little shifted to the other side."""
    instances, segments = np.zeros((2, 2, 20, 20), dtype=bool)
    instances[0, 2:4, 8:10] = instances[1, 16:18, 11:13] = True
    segments[0, 2:4, 11:13] = segments[1, 16:18, 8:10] = True
    assert match_centres(instances, segments, "distance").tolist() == [0, 1]
    assert match_centres(instances, segments, "order").tolist() == [1, 0]


def test_an_instance_that_is_hidden_is_no_segment() -> None:
    instances = boxes((0, 4), (9, 9), (14, 18))
    assert match_centres(instances, THREE, "distance").tolist() == [0, NOBODY, 2]


@pytest.mark.parametrize("shape", [(3, 5), (5, 3), (4, 4)])
def test_order_is_the_best_of_all_that_keep_it(shape: tuple[int, int]) -> None:
    rng = np.random.default_rng(sum(shape))
    width = 200
    spots = [sorted(rng.choice(width - 4, count, replace=False)) for count in shape]
    first, second = (boxes(*((x, x + 3) for x in part), width=width) for part in spots)
    found = match_centres(first, second, "order")
    pairs = [(i, int(j)) for i, j in enumerate(found) if j != NOBODY]
    apart = np.abs(centres(first)[:, None, 1] - centres(second)[None, :, 1])
    few = min(shape)
    best = min(
        sum(apart[i, j] for i, j in zip(rows, columns, strict=True))
        for rows in itertools.combinations(range(shape[0]), few)
        for columns in itertools.combinations(range(shape[1]), few)
    )
    assert len(pairs) == few and sum(apart[pair] for pair in pairs) == pytest.approx(best)


def test_scores_of_three_triplets() -> None:
    """Right under both; wrong alone but right together; without a segment."""
    segments = boxes((0, 4), (7, 9))
    scores = ReferringScores()
    scores.update(THREE[0], segments, bf=0, af=0, truth=0)
    scores.update(THREE[1], segments, bf=0, af=1, truth=1)
    other = ReferringScores()
    other.update(THREE[2], segments, bf=1, af=NOBODY, truth=NOBODY)
    scores.merge(other)
    found = scores.result()
    assert found["bf_acc"] == pytest.approx(100 / 3)
    assert found["af_acc"] == pytest.approx(200 / 3)
    assert found["mIoU"] == found["bound"] == pytest.approx(100 * (1 + 0.5 + 0) / 3)
    assert found["mIoU, bf"] == pytest.approx(100 / 3)
    assert found["mIoU, dataset"] == pytest.approx(100 * (16 + 8) / (16 + 16 + 16))
    assert found["triplets"] == 3
    assert ReferringScores().result()["mIoU"] is None


def test_masks_that_are_the_truth_have_the_miou_of_their_accuracy() -> None:
    """As Mask R-CNN's in the paper, whose mIoU is its af_acc; pixels of all triplets are less."""
    scores = ReferringScores()
    for af, truth in ((0, 0), (1, 1), (1, 2), (2, 1)):
        scores.update(THREE[truth], THREE, bf=0, af=af, truth=truth)
    found = scores.result()
    assert found["mIoU"] == found["af_acc"] == 50 and found["mIoU, dataset"] < 50
