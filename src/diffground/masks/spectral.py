"""Segments of the self-attention map, by normalised cuts (002, §5.3: "a simple version of spectral
clustering" [Shi and Malik 2000]).

The paper names the method and no number, and there is no public code. What is done here: pixels of
the object area are the graph's vertices, the symmetric part of the self-attention its weights; the
first eigenvectors of its normalised Laplacian embed them, and k-means divides them.

``N`` pixels = h·w of the attention's grid · ``V`` vertices = pixels of the area · ``S`` segments
"""

from __future__ import annotations

from typing import Final

import numpy as np
from numpy.typing import NDArray
from scipy import linalg, ndimage

from diffground.masks.config import SpectralConfig

# Raised when the same map and area give other segments.
CODE_VERSION: Final = 1

_EIGHT = np.ones((3, 3), dtype=bool)  # neighbours of a pixel, diagonals included
_STARTS = 10  # of k-means, the best of which is kept


def divide_area(
    self_map: NDArray[np.floating],
    area: NDArray[np.bool_],
    config: SpectralConfig,
    *,
    asked: int,
    seed: int,
) -> NDArray[np.int64]:
    """The segment of each pixel of the grid: int64 (h, w), 1 to S from left to right, 0 nobody's.

    Args:
        self_map: (N, N), non-negative; rows are the pixels that attend.
        area: bool (h, w), what is divided; an empty one has no segments.
        asked: how many objects are asked for, see :attr:`SpectralConfig.segments`.
        seed: decides the starts of k-means, the only thing here that is random.
    """
    labels = np.zeros(area.shape, np.int64)
    inside = np.flatnonzero(area)
    if not len(inside):
        return labels
    weights = affinity(self_map[np.ix_(inside, inside)], config.power)
    if config.proximity is not None:
        places = np.stack(np.nonzero(area), axis=1) / area.shape[0]  # (V, 2)
        apart = ((places[:, None] - places[None]) ** 2).sum(axis=-1)
        weights = weights * np.exp(-apart / config.proximity**2)
    count = asked if config.segments == "asked" else config.segments
    labels[area] = 1 + cut(
        weights,
        None if isinstance(count, str) else count,
        most=config.most,
        eigenvectors=config.eigenvectors,
        seed=seed,
    )
    if config.components:
        labels = _connected(labels)
    return _ordered(labels, config.least * len(inside))


def affinity(self_map: NDArray[np.floating], power: float = 1.0) -> NDArray[np.float64]:
    """Symmetric weights (V, V) of a self map (V, V) whose entries are raised to ``power``.

    The map's largest entry becomes 1 before that, so that no power underflows.
    """
    entries = self_map.astype(np.float64)
    entries = (entries / max(entries.max(), np.finfo(float).tiny)) ** power
    return np.asarray((entries + entries.T) / 2)


def cut(
    weights: NDArray[np.float64],
    count: int | None,
    *,
    most: int,
    eigenvectors: int | None,
    seed: int,
) -> NDArray[np.int64]:
    """The part of each vertex of a graph, int64 (V,), 0 to ``count`` - 1.

    Args:
        weights: symmetric and non-negative (V, V).
        count: of parts; None: by the :func:`eigengap`. At most V.
        most: parts that the eigengap may find.
        eigenvectors: coordinates of a vertex; None: ``count``.
    """
    from sklearn.cluster import KMeans

    vertices = len(weights)
    wanted = max(most + 1 if count is None else count, eigenvectors or 0)
    values, embedding = embed(weights, min(vertices, wanted))
    parts = min(vertices, eigengap(values, most) if count is None else count)
    if parts == 1:
        return np.zeros(vertices, np.int64)
    points = embedding[:, : eigenvectors or parts]
    fitted = KMeans(parts, n_init=_STARTS, random_state=seed % 2**32).fit(points)
    return np.asarray(fitted.labels_, np.int64)


def embed(
    weights: NDArray[np.float64], count: int
) -> tuple[NDArray[np.float64], NDArray[np.float64]]:
    """The ``count`` smallest eigenvalues λ (ascending) of the normalised Laplacian, and coordinates
    ``(V, count)``: the solutions y of (D - W) y = λ D y, Shi and Malik's relaxed cuts.

    What a vertex attends to itself is left out, as no cut parts it (and as in scikit-learn).
    """
    weights = weights - np.diag(np.diag(weights))
    degree = weights.sum(axis=1)
    root = np.sqrt(np.where(degree > 0, degree, 1.0))  # a vertex without edges stays by itself
    laplacian = np.eye(len(weights)) - weights / root[:, None] / root[None]
    values, vectors = linalg.eigh(laplacian, subset_by_index=(0, count - 1))
    return values, vectors / root[:, None]


def eigengap(values: NDArray[np.float64], most: int) -> int:
    """How many parts a graph has: behind which of its ascending eigenvalues the next leap is the
    largest, 1 to ``most``; of equal leaps the first. One value alone is one part.
    """
    leaps = np.diff(values[: most + 1])
    return 1 + int(leaps.argmax()) if len(leaps) else 1


def _connected(labels: NDArray[np.int64]) -> NDArray[np.int64]:
    """Connected parts of every segment, numbered anew."""
    found = np.zeros_like(labels)
    for label in range(1, int(labels.max()) + 1):
        parts, _ = ndimage.label(labels == label, structure=_EIGHT)
        found += np.where(parts > 0, parts + found.max(), 0)
    return found


def _ordered(labels: NDArray[np.int64], least: float) -> NDArray[np.int64]:
    """Numbered by the columns of the centres; segments of less than ``least`` pixels are gone."""
    found = np.zeros_like(labels)
    known, sizes = np.unique(labels[labels > 0], return_counts=True)
    kept = known[sizes >= least]
    columns = [float(np.nonzero(labels == label)[1].mean()) for label in kept]
    for number, place in enumerate(np.argsort(columns, kind="stable"), start=1):
        found[labels == kept[place]] = number
    return found
