"""AP50 against cases small enough to integrate by hand."""

import numpy as np
import pytest

from diffground.metrics.detection import AveragePrecision, Instances


def boxes(*spans):
    """Masks (N, 4, 100): columns start..stop."""
    masks = np.zeros((len(spans), 4, 100), bool)
    for mask, (start, stop) in zip(masks, spans, strict=True):
        mask[:, start:stop] = True
    return masks


def predicted(spans, scores, categories=None):
    categories = np.array(categories or [1] * len(spans), int)
    return Instances(boxes(*spans), categories, np.array(scores, float))


def target(spans, categories=None, crowd=None):
    categories = np.array(categories or [1] * len(spans), int)
    return Instances(boxes(*spans), categories, None, None if crowd is None else np.array(crowd))


def ap(*images):
    metric = AveragePrecision()
    for number, (mine, theirs) in enumerate(images):
        metric.update(str(number), mine, theirs)
    return metric.result()


def test_all_found_none_found_nothing_to_find():
    two = target([(0, 10), (20, 30)])
    assert ap((predicted([(0, 10), (20, 30)], [0.9, 0.8]), two)) == 100
    assert ap((predicted([(50, 60)], [0.9]), two)) == 0
    assert ap((predicted([], []), two)) == 0
    assert ap((predicted([(0, 10)], [0.9]), target([]))) is None


def test_half_found_is_the_recall_levels_up_to_a_half():
    """Recall levels 0, .01 .. .50 of 101 are reached, at precision 1."""
    assert ap((predicted([(0, 10)], [0.9]), target([(0, 10), (20, 30)]))) == pytest.approx(
        100 * 51 / 101
    )


def test_a_false_positive_of_higher_score_halves_the_precision():
    theirs = target([(0, 10)])
    assert ap((predicted([(50, 60), (0, 10)], [0.9, 0.8]), theirs)) == pytest.approx(50)
    assert ap((predicted([(50, 60), (0, 10)], [0.7, 0.8]), theirs)) == pytest.approx(100)


def test_precision_is_made_non_increasing():
    """Hit, miss, hit of two targets: 51 levels at 1, then 50 at 2/3."""
    mine = predicted([(0, 10), (50, 60), (20, 30)], [0.9, 0.8, 0.7])
    expected = 100 * (51 + 50 * 2 / 3) / 101
    assert ap((mine, target([(0, 10), (20, 30)]))) == pytest.approx(expected)
    # a miss first: the envelope lifts the first level to 2/3 as well
    mine = predicted([(50, 60), (0, 10), (20, 30)], [0.9, 0.8, 0.7])
    assert ap((mine, target([(0, 10), (20, 30)]))) == pytest.approx(100 * 2 / 3)


def test_a_target_is_claimed_once_and_by_the_best_fit():
    theirs = target([(0, 10)])
    twice = predicted([(0, 10), (0, 10)], [0.9, 0.8])
    assert ap((twice, theirs)) == 100  # the second is a miss after full recall
    # the first prediction fits both targets and takes the better, leaving the other to the second
    mine = predicted([(3, 13), (0, 10)], [0.9, 0.8])
    assert ap((mine, target([(0, 10), (4, 14)]))) == 100


def test_the_threshold_is_inclusive():
    assert ap((predicted([(0, 10)], [0.9]), target([(0, 20)]))) == 100
    assert ap((predicted([(0, 10)], [0.9]), target([(0, 21)]))) == 0


def test_a_prediction_on_a_crowd_is_left_out():
    theirs = target([(0, 10), (40, 90)], crowd=[False, True])
    mine = predicted([(40, 50), (60, 70), (0, 10)], [0.9, 0.8, 0.7])
    assert ap((mine, theirs)) == 100
    assert ap((mine, target([(0, 10)]))) == pytest.approx(100 / 3)


def test_the_mean_goes_over_categories_with_a_target():
    mine = predicted([(0, 10), (20, 30), (50, 60)], [0.9, 0.8, 0.7], [1, 2, 3])
    theirs = target([(0, 10), (80, 90)], [1, 2])
    assert ap((mine, theirs)) == 50
    metric = AveragePrecision()
    metric.update("a", mine, theirs)
    assert metric.per_category() == {1: 1.0, 2: 0.0}


def test_images_rank_together_in_any_order():
    """One hit at .9 in image a, misses at .8 in b, hit at .7 in c, of two targets."""
    images = {
        "a": (predicted([(0, 10)], [0.9]), target([(0, 10)])),
        "b": (predicted([(0, 10)], [0.8]), target([])),
        "c": (predicted([(0, 10)], [0.7]), target([(0, 10)])),
    }
    expected = 100 * (51 + 50 * 2 / 3) / 101
    for order in ("abc", "cba"):
        metric = AveragePrecision()
        for name in order:
            metric.update(name, *images[name])
        assert metric.result() == pytest.approx(expected)


def test_only_the_hundred_best_predictions_of_an_image_count():
    spans, scores = [(50, 60)] * 100 + [(0, 10)], [0.9] * 100 + [0.8]
    assert ap((predicted(spans, scores), target([(0, 10)]))) == 0
    assert ap((predicted(spans[1:], scores[1:]), target([(0, 10)]))) == pytest.approx(1)


def test_refusals():
    metric = AveragePrecision()
    one = predicted([(0, 10)], [0.9])
    metric.update("a", one, target([(0, 10)]))
    with pytest.raises(ValueError, match="added before"):
        metric.update("a", one, target([(0, 10)]))
    with pytest.raises(ValueError, match="need scores"):
        metric.update("b", one._replace(scores=None), target([]))
    with pytest.raises(ValueError, match="lengths"):
        metric.update("b", one._replace(categories=np.array([1, 2])), target([]))
