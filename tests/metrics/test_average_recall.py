"""Average Recall against its definition, the published disc figures, and its own invariants."""

import random

import numpy as np
import pytest
import torch

from diffground.metrics.average_recall import (
    GROUPS,
    AverageRecall,
    phrase_groups,
    phrase_iou,
)


def legacy_average_recall(ious):
    """The public evaluators' sum: 100,000 thresholds, inclusive, left Riemann sum."""
    thresholds = np.arange(0, 1, 1e-5)
    recall = 1 - np.searchsorted(np.sort(ious), thresholds, side="left") / len(ious)
    return float((recall[:-1] * np.diff(thresholds)).sum())


def disc(radius, height=480, width=640, centre=(240, 320)):
    """A disc, bool (H, W), radius in pixels."""
    y, x = np.mgrid[:height, :width]
    return (y - centre[0]) ** 2 + (x - centre[1]) ** 2 <= radius**2


def noted(values):
    """An AverageRecall of singular things."""
    recall = AverageRecall()
    for index, value in enumerate(values):
        recall.update((0, index), value, thing=True, plural=False)
    return recall


# What a perfect prediction scores in a 640 x 480 image under each protocol, by disc radius.
DISCS = {
    "original": [1.0] * 6,
    "ppmn": [0.62, 0.82, 0.93, 0.95, 0.98, 0.99],
    "png_soft": [0.66, 0.82, 0.90, 0.95, 0.97, 0.99],
}


@pytest.mark.parametrize("protocol", DISCS)
def test_a_perfect_prediction_of_a_disc(protocol):
    targets = np.stack([disc(radius) for radius in (5, 10, 20, 40, 80, 160)])
    values = phrase_iou(targets.astype(np.float32), targets, protocol)
    np.testing.assert_allclose(values, DISCS[protocol], atol=0.006)


@pytest.mark.parametrize("seed", range(8))
def test_mean_iou_is_the_legacy_area_under_the_curve(seed):
    rng = np.random.default_rng(seed)
    values = rng.beta(0.5, 0.5, size=int(rng.integers(1, 3000)))
    values[rng.random(len(values)) < 0.1] = rng.choice([0.0, 0.25, 0.5, 1.0])
    assert noted(values).result()["overall"] / 100 == pytest.approx(
        legacy_average_recall(values), abs=1e-5
    )


@pytest.mark.parametrize("value", [0.0, 1.0])
def test_the_extremes_are_exact_where_the_legacy_sum_is_a_step_off(value):
    assert noted([value] * 3).result()["overall"] == 100 * value
    assert legacy_average_recall([value] * 3) == pytest.approx(abs(value - 1e-5), abs=1e-9)


def test_original_is_plain_iou_after_upsampling():
    prob = torch.zeros(2, 2, 2)
    prob[0, 0, 0] = 1.0
    prob[1] = 0.5  # not above the threshold
    target = torch.zeros(2, 4, 4, dtype=torch.bool)
    target[:, :2, :2] = True
    # one corner pixel becomes (1 .75 .25 0) x (1 .75 .25 0): 4 values above .5, 6 above .2
    np.testing.assert_allclose(phrase_iou(prob, target, "original"), [1.0, 0.0])
    np.testing.assert_allclose(phrase_iou(prob, target, "original", 0.2), [4 / 6, 4 / 16])


def test_png_soft_is_the_soft_ratio_written_plainly():
    rng = np.random.default_rng(0)
    prob = rng.random((3, 256, 256), dtype=np.float32)  # already on the soft grid
    target = rng.random((3, 256, 256)) < 0.3
    t = target.astype(np.float64)
    expected = (prob * t).sum((1, 2)) / (prob + t - prob * t).sum((1, 2))
    np.testing.assert_allclose(phrase_iou(prob, target, "png_soft"), expected, rtol=1e-6)


def bilinear_matrix(source, destination):
    """Rows of weights: half-pixel centres, clamped at the border, no antialiasing."""
    weights = np.zeros((destination, source))
    for row in range(destination):
        at = max((row + 0.5) * source / destination - 0.5, 0)
        low = min(int(at), source - 1)
        weights[row, low] += 1 - (at - low)
        weights[row, min(low + 1, source - 1)] += at - low
    return weights


@pytest.mark.parametrize(
    ("size", "test_size", "padded"),
    [
        ((60, 100), (800, 1333), (800, 1344)),
        ((100, 80), (1000, 800), (1024, 800)),
        ((120, 30), (1333, 333), (1344, 352)),  # the long side decides
    ],
)
def test_ppmn_is_its_three_resizes_written_plainly(size, test_size, padded):
    rng = np.random.default_rng(0)
    target = disc(11, *size, (25, 14))[None]
    prob = np.clip(target + rng.normal(0, 0.3, target.shape), 0, 1).astype(np.float32)

    def grid(mask):
        up = bilinear_matrix(size[0], test_size[0]) @ mask
        up = up @ bilinear_matrix(size[1], test_size[1]).T
        up = np.pad(up, [(0, p - t) for p, t in zip(padded, test_size, strict=True)])
        down = bilinear_matrix(padded[0], padded[0] // 4) @ up
        return down @ bilinear_matrix(padded[1], padded[1] // 4).T

    p, t = grid(prob[0]) > 0.5, grid(target[0].astype(float)) > 0
    expected = (p & t).sum() / (p | t).sum()
    assert phrase_iou(prob, target, "ppmn")[0] == pytest.approx(expected, abs=2e-3)
    assert p.any() and t.any() and 0.3 < expected < 1  # a comparison that can fail


@pytest.mark.parametrize("protocol", DISCS)
def test_any_resolution_any_number_any_container(protocol):
    targets = np.stack([disc(r, 60, 80, (30, 40)) for r in range(3, 23)])  # more than one slab
    small = torch.from_numpy(targets[:, ::2, ::2].astype(np.float32))
    together = phrase_iou(small, targets, protocol)
    alone = [phrase_iou(small[n : n + 1].double().numpy(), targets[n : n + 1], protocol)[0]
             for n in range(20)]  # fmt: skip
    np.testing.assert_allclose(together, alone, rtol=1e-6)
    assert together.dtype == np.float64 and (together[5:] > 0.7).all()
    assert phrase_iou(small[:0], targets[:0], protocol).shape == (0,)


@pytest.mark.parametrize("protocol", DISCS)
def test_an_empty_union_counts_nothing(protocol):
    empty = np.zeros((1, 32, 32), bool)
    assert phrase_iou(np.zeros((1, 8, 8)), empty, protocol) == 0
    assert phrase_iou(np.ones((1, 8, 8)), empty, protocol) == 0


@pytest.mark.parametrize(
    ("prob", "target", "protocol", "threshold", "message"),
    [
        (np.full((1, 4, 4), 1.5), np.ones((1, 4, 4), bool), "original", 0.5, "outside"),
        (np.full((1, 4, 4), np.nan), np.ones((1, 4, 4), bool), "original", 0.5, "outside"),
        (np.ones((1, 4, 4)), np.ones((2, 4, 4), bool), "original", 0.5, "do not fit"),
        (np.ones((1, 4, 4)), np.ones((1, 4, 4)), "original", 0.5, "expected bool"),
        (np.ones((1, 4, 4)), np.ones((1, 4, 4), bool), "soft", 0.5, "protocol 'soft'"),
        (np.ones((1, 4, 4)), np.ones((1, 4, 4), bool), "png_soft", 0.4, "would be ignored"),
    ],
)
def test_what_cannot_be_measured_is_refused(prob, target, protocol, threshold, message):
    with pytest.raises(ValueError, match=message):
        phrase_iou(prob, target, protocol, threshold)


def test_the_two_plural_rules():
    assert phrase_groups(1, False, True, "count") == (True, False)
    assert phrase_groups(2, False, False, "count") == (False, True)
    assert phrase_groups(1, True, False, "count") == (False, False)
    assert phrase_groups(1, True, False, "flag") == (True, True)  # any plural is a thing
    assert phrase_groups(2, False, False, "flag") == (False, False)
    with pytest.raises(ValueError, match="plural rule"):
        phrase_groups(1, True, True, "both")


def _random_entries(seed, size=400):
    rng = random.Random(seed)
    return [((f"{n // 5}_{n}", n % 5), rng.random(), rng.random() < 0.5, rng.random() < 0.2)
            for n in range(size)]  # fmt: skip


def _collect(entries):
    recall = AverageRecall("ppmn", "flag")
    for key, value, thing, plural in entries:
        recall.update(key, value, thing=thing, plural=plural)
    return recall


@pytest.mark.parametrize("seed", range(5))
def test_order_and_duplicates_change_no_bit(seed):
    entries = _random_entries(seed)
    plain = _collect(entries)
    rng = random.Random(seed + 100)
    shuffled = rng.sample(entries, len(entries)) + rng.choices(entries, k=50)
    again = _collect(shuffled)
    rows = [
        {"narrative": key[0], "phrase": key[1], "iou": iou, "thing": thing, "plural": plural}
        for key, iou, thing, plural in shuffled
    ]
    for other in (again, AverageRecall.from_rows(rows, "ppmn", "flag")):
        assert other.result() == plain.result() and other.phrases == 400


def test_groups_split_all_phrases():
    entries = _random_entries(7)
    result, counts = _collect(entries).result(), _collect(entries).counts()
    assert tuple(result) == GROUPS
    assert counts["things"] + counts["stuff"] == counts["overall"] == 400
    assert counts["singulars"] + counts["plurals"] == 400
    things = [value for _, value, thing, _ in entries if thing]
    assert result["things"] == pytest.approx(100 * np.mean(things))
    singular = noted([0.5])
    assert singular.result()["plurals"] is None and singular.curve([0.5])["stuff"] is None


def test_nouns_are_groups_where_any_were_held_out():
    values = [(0.2, True), (0.6, True), (1.0, False), (0.5, False), (0.3, False)]
    rows = [
        {"narrative": 0, "phrase": n, "iou": iou, "thing": True, "plural": False, "held_out": held}
        for n, (iou, held) in enumerate(values)
    ]
    recall = AverageRecall.from_rows(rows)
    assert tuple(recall.result()) == (*GROUPS, "seen nouns", "held-out nouns")
    assert recall.result()["held-out nouns"] == pytest.approx(40)
    assert recall.result()["seen nouns"] == pytest.approx(60)
    assert recall.result()["overall"] == pytest.approx(52)
    assert recall.curve([0.5])["held-out nouns"] == [0.5]
    seen = AverageRecall.from_rows(row | {"held_out": False} for row in rows)
    assert seen.result()["held-out nouns"] is None and seen.counts()["seen nouns"] == 5
    with pytest.raises(ValueError, match="two results"):
        recall.update((0, 0), 0.2, thing=True, plural=False, held_out=False)


def test_curve_counts_a_reached_threshold():
    curve = noted([0.0, 0.25, 0.5, 1.0]).curve([0.0, 0.25, 0.3, 0.5, 0.6, 1.0])
    assert curve["overall"] == [1.0, 0.75, 0.5, 0.5, 0.25, 0.25]
    dense = np.linspace(0, 1, 20001)
    recall = _collect(_random_entries(3))
    area = np.trapezoid(recall.curve(dense)["overall"], dense)
    assert 100 * area == pytest.approx(recall.result()["overall"], abs=0.01)


def test_contradictions_are_refused():
    recall = noted([0.5])
    recall.update((0, 0), 0.5 + 1e-9, thing=True, plural=False)  # float noise of another batch
    assert recall.phrases == 1
    for value, thing in ((0.6, True), (0.5, False)):
        with pytest.raises(ValueError, match="two results"):
            recall.update((0, 0), value, thing=thing, plural=False)
    for value in (1.2, -0.1, float("nan")):
        with pytest.raises(ValueError, match="not in"):
            recall.update((0, 1), value, thing=True, plural=False)
