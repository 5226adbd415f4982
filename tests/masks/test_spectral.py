"""Spectral segments, against scikit-learn's and on graphs whose parts are known."""

from __future__ import annotations

import numpy as np
import pytest
from numpy.typing import NDArray
from sklearn.cluster import SpectralClustering
from sklearn.manifold import spectral_embedding
from sklearn.metrics import adjusted_rand_score

from diffground.masks.config import SpectralConfig
from diffground.masks.spectral import (
    affinity,
    cut,
    divide_area,
    eigengap,
    embed,
)


def blocks(sizes: tuple[int, ...], within: float, across: float, seed: int = 0) -> NDArray:
    """A noisy graph of some groups, as a self map: not symmetric, rows sum to 1."""
    rng = np.random.default_rng(seed)
    group = np.repeat(np.arange(len(sizes)), sizes)
    weights = np.where(group[:, None] == group[None], within, across)
    weights = weights * rng.uniform(0.5, 1.5, weights.shape)
    return weights / weights.sum(axis=1, keepdims=True)


@pytest.mark.parametrize("seed", range(3))
@pytest.mark.parametrize("count", [2, 3, 4])
def test_cuts_are_scikit_learns(seed: int, count: int) -> None:
    """On a graph whose groups are neither even nor clean."""
    weights = affinity(blocks((9, 14, 6, 11), 1.0, 0.25, seed))
    ours = cut(weights, count, most=8, eigenvectors=None, seed=seed)
    theirs = SpectralClustering(
        count, affinity="precomputed", n_init=10, random_state=seed, eigen_solver="lobpcg"
    ).fit_predict(weights)
    assert adjusted_rand_score(ours, theirs) == 1.0


def test_coordinates_are_scikit_learns_up_to_signs() -> None:
    weights = affinity(blocks((5, 7, 4), 1.0, 0.1))
    values, ours = embed(weights, 4)
    theirs = spectral_embedding(weights, n_components=4, drop_first=False, random_state=0)
    for column in range(4):
        scale = ours[:, column] @ theirs[:, column] / (theirs[:, column] @ theirs[:, column])
        np.testing.assert_allclose(ours[:, column], scale * theirs[:, column], atol=1e-5)
    assert values[0] == pytest.approx(0, abs=1e-12) and (np.diff(values) >= 0).all()
    weights = weights - np.diag(np.diag(weights))
    degree = np.diag(weights.sum(axis=1))
    np.testing.assert_allclose((degree - weights) @ ours, degree @ ours * values, atol=1e-9)


@pytest.mark.parametrize("sizes", [(12,), (8, 8), (6, 9, 12), (10, 5, 8, 7)])
def test_the_eigengap_counts_the_groups(sizes: tuple[int, ...]) -> None:
    weights = affinity(blocks(sizes, 1.0, 0.02))
    labels = cut(weights, None, most=6, eigenvectors=None, seed=0)
    group = np.repeat(np.arange(len(sizes)), sizes)
    assert adjusted_rand_score(labels, group) == 1.0


def test_of_equal_leaps_the_first_counts() -> None:
    assert eigengap(np.array([0.0, 0.5, 1.0]), 8) == 1
    assert eigengap(np.array([0.0, 0.1, 0.9, 1.0]), 8) == 2
    assert eigengap(np.array([0.0, 0.1, 0.2, 0.9]), 2) == 1, "no more than most"
    assert eigengap(np.array([0.0]), 8) == 1


def picture() -> tuple[NDArray, NDArray[np.bool_]]:
    """Two 3 x 3 things that look alike and a third that does not, on a 5 x 16 grid."""
    area = np.zeros((5, 16), dtype=bool)
    looks = np.zeros((5, 16), dtype=int)
    for number, (left, look) in enumerate([(1, 1), (6, 2), (11, 1)]):
        area[1:4, left : left + 3] = True
        looks[1:4, left : left + 3] = look
        assert number < 3
    alike = looks.reshape(-1, 1) == looks.reshape(1, -1)
    weights = np.where(alike, 1.0, 0.05)
    return weights / weights.sum(axis=1, keepdims=True), area


def divided(**settings: object) -> NDArray[np.int64]:
    weights, area = picture()
    config = SpectralConfig.model_validate(settings)
    labels = divide_area(weights, area, config, asked=3, seed=7)
    assert ((labels > 0) <= area).all(), "nothing outside of the area"
    return labels


def test_things_that_look_alike_are_parted_by_place_only() -> None:
    by_looks = divided(segments=2)
    assert by_looks[2, 2] == by_looks[2, 12] != by_looks[2, 7]
    apart = divided(segments=2, components=True)
    assert [apart[2, c] for c in (2, 7, 12)] == [1, 2, 3], "from left to right"
    near = divided(segments="asked", proximity=0.8)
    assert [near[2, c] for c in (2, 7, 12)] == [1, 2, 3]
    assert {int(x) for x in np.unique(near)} == {0, 1, 2, 3}


def test_small_segments_are_nobodys_and_numbers_have_no_gaps() -> None:
    weights, area = picture()
    area[4, 4] = True  # one pixel that is like the background
    config = SpectralConfig(segments=3, components=True, least=0.0)
    assert divide_area(weights, area, config, asked=1, seed=0).max() == 4
    large = config.model_copy(update={"least": 0.1})
    labels = divide_area(weights, area, large, asked=1, seed=0)
    assert labels[4, 4] == 0 and {int(x) for x in np.unique(labels)} == {0, 1, 2, 3}


def test_an_empty_area_one_pixel_and_more_segments_than_pixels() -> None:
    weights, area = picture()
    config = SpectralConfig(segments=5, least=0.0)
    assert not divide_area(weights, np.zeros_like(area), config, asked=3, seed=0).any()
    one = np.zeros_like(area)
    one[2, 3] = True
    assert divide_area(weights, one, config, asked=3, seed=0).sum() == 1
    two = one.copy()
    two[2, 9] = True
    assert divide_area(weights, two, config, asked=3, seed=0)[2, [3, 9]].tolist() == [1, 2]


def test_a_pixel_without_weights_does_no_harm() -> None:
    weights = blocks((6, 6), 1.0, 0.05)
    weights[3], weights[:, 3] = 0.0, 0.0
    labels = cut(affinity(weights), 2, most=8, eigenvectors=None, seed=0)
    assert np.isfinite(embed(affinity(weights), 3)[1]).all() and len(labels) == 12


def test_the_seed_alone_decides() -> None:
    weights, area = picture()
    rng = np.random.default_rng(0)
    noisy = weights * rng.uniform(0.1, 2.0, weights.shape)
    config = SpectralConfig(segments=4, least=0.0)
    first = divide_area(noisy, area, config, asked=1, seed=5)
    np.random.seed(1)
    assert (divide_area(noisy, area, config, asked=1, seed=5) == first).all()
