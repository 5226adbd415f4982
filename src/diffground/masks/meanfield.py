"""The dense CRF's mean field in torch, for machines without the compiled one, and for GPUs.

Krähenbühl and Koltun, "Efficient inference in fully connected CRFs with Gaussian edge potentials"
(NeurIPS 2011), whose Gaussian sums over all pairs of pixels are taken on a permutohedral lattice
(Adams, Baek and Davis, "Fast high-dimensional filtering using the permutohedral lattice", 2010).
The lattice is an approximation of its own, coarse where few pixels have a similar colour, and the
compiled code uses it: a sum over the true kernel would give *other* masks (in up to 2 % of the
pixels of small noisy pictures). So this is the same lattice, and the same masks.

``N`` pixels · ``L`` labels · ``d`` features of a pixel · ``M`` lattice points in use
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor

from diffground.errors import InputError

_MAX_CODE = 2**62  # lattice points are numbered with 64 bit integers


class Lattice:
    """Gaussian filtering of N points: ``out_i = sum_j exp(-|f_i - f_j|^2 / 2) v_j``, nearly.

    Values are spread to the corners of the simplex around each point (barycentric weights), blurred
    along the d + 1 directions of the lattice with (1/2, 1, 1/2), and read off at the same corners.
    Time and memory are proportional to ``N d^2``, whatever the width of the Gaussian.
    """

    def __init__(self, features: Tensor) -> None:
        """Places points (N, d), already divided by their standard deviations.

        Raises:
            InputError: the points spread over more lattice cells than can be numbered.
        """
        d = features.shape[1]
        remainder, rank, weights = _enclosing_simplex(features.float())
        # Corner r of a simplex: the point of colour 0 plus r, less d + 1 in its r last coordinates.
        steps = torch.arange(d + 1, device=features.device)
        beyond = steps[None, :] > d - steps[:, None]  # (corner, rank)
        canonical = steps[:, None] - (d + 1) * beyond.long()
        corners = remainder[:, None, :d] + canonical[:, rank[:, :d]].transpose(0, 1)  # (N, d+1, d)

        # One integer for each corner; a margin keeps neighbours' numbers from wrapping around.
        low = corners.amin(dim=(0, 1)) - d
        size = (corners.amax(dim=(0, 1)) + d + 1 - low).tolist()
        if math.prod(size) >= _MAX_CODE:
            reason = "the standard deviations are too small for a picture of this size"
            raise InputError("dense CRF", "sxy, srgb", reason)
        stride = torch.tensor(
            [math.prod(size[i + 1 :]) for i in range(d)], device=features.device, dtype=torch.long
        )
        codes = ((corners - low) * stride).sum(dim=-1)  # (N, d+1)
        used, index = torch.unique(codes, return_inverse=True)
        self._corner = index.T.contiguous()  # (d+1, N)
        self._weight = weights.T.contiguous()[..., None]  # (d+1, N, 1)

        # The two neighbours of a point in direction j: -1 everywhere and +d at j, and its opposite.
        whole = int(stride.sum())
        jumps = [(d + 1) * int(step) - whole for step in stride] + [-whole]
        self._neighbours = [(_find(used, used + jump), _find(used, used - jump)) for jump in jumps]
        self._points = len(used)
        self._gain = 1 / (1 + 2.0**-d)  # of the blur

    def filter(self, values: Tensor) -> Tensor:
        """The filtered values, (N, C) for (N, C), float32."""
        grid = values.new_zeros(self._points + 1, values.shape[1])  # the last row stays empty
        for corner, weight in zip(self._corner, self._weight, strict=True):
            grid.index_add_(0, corner, weight * values)
        for before, after in self._neighbours:
            grid[:-1] += 0.5 * (grid[before] + grid[after])  # both read before anything is added
        out = torch.zeros_like(values)
        for corner, weight in zip(self._corner, self._weight, strict=True):
            out += weight * grid[corner]
        return out * self._gain


def mean_field(unary: Tensor, kernels: Sequence[tuple[float, Tensor]], iterations: int) -> Tensor:
    """The posterior (N, L) of a dense CRF with Potts compatibility.

    Args:
        unary: energies, ``-log`` of the scores, float32 (N, L).
        kernels: the weight of each Gaussian kernel, and its features (N, d).
        iterations: parallel mean-field updates, after the start at ``softmax(-unary)``.

    Kernels are normalised on both sides, ``k_ij / sqrt(k_i k_j)`` with their row sums ``k_i``, and
    a pixel's message to itself is included, as in the compiled code.
    """
    prepared = []
    for weight, features in kernels:
        lattice = Lattice(features)
        norm = (lattice.filter(torch.ones_like(unary[:, :1])) + 1e-20).rsqrt()
        prepared.append((weight, lattice, norm))
    posterior = torch.softmax(-unary, dim=1)
    for _ in range(iterations):
        logits = -unary
        for weight, lattice, norm in prepared:
            logits = logits + weight * norm * lattice.filter(norm * posterior)
        posterior = torch.softmax(logits, dim=1)
    return posterior


def pixel_features(image: Tensor, sxy: float, srgb: float | None) -> Tensor:
    """Features (N, 2) ``x, y`` or, with ``srgb``, (N, 5) ``x, y, r, g, b`` of an image (H, W, 3).

    ``sxy`` in pixels and ``srgb`` in grey levels are the standard deviations.
    """
    height, width = image.shape[:2]
    y, x = torch.meshgrid(
        torch.arange(height, device=image.device),
        torch.arange(width, device=image.device),
        indexing="ij",
    )
    place = torch.stack([x, y], dim=-1).reshape(-1, 2) / sxy
    if srgb is None:
        return place
    return torch.cat([place, image.reshape(-1, 3) / srgb], dim=1)


def _enclosing_simplex(features: Tensor) -> tuple[Tensor, Tensor, Tensor]:
    """Each point's simplex in the hyperplane of d + 1 coordinates that sum to 0.

    Returns the simplex's lattice point of colour 0, int64 (N, d+1); the rank of each coordinate of
    the difference to it, 0 for the largest, int64 (N, d+1); and the barycentric weights of the
    corners, float32 (N, d+1).
    """
    assert features.dtype == torch.float32, features.dtype
    d = features.shape[1]
    # An orthogonal basis of the hyperplane, so scaled that spread, blur and reading together have
    # the variance 1. In single precision, its factor rounded too, as the compiled code does: close
    # to a border between cells the last bit decides which lattice points are in use.
    width = torch.tensor((d + 1) * math.sqrt(2 / 3), dtype=torch.float32).double()
    order = torch.arange(1, d + 1, device=features.device)
    scaled = features * (width / torch.sqrt(order.double() * (order + 1))).float()
    tail = scaled.flip(1).cumsum(1).flip(1)  # sum over i >= j
    zero = torch.zeros_like(tail[:, :1])
    elevated = torch.cat([tail, zero], 1) - torch.cat([zero, order * scaled], 1)

    nearest = torch.round(elevated / (d + 1))
    excess = nearest.sum(dim=1, keepdim=True).long()  # the hyperplane wants 0
    remainder = (d + 1) * nearest.long()
    difference = elevated - remainder
    rank = difference.argsort(dim=1, descending=True, stable=True).argsort(dim=1) + excess
    shift = (d + 1) * ((rank < 0).long() - (rank > d).long())
    rank, remainder = rank + shift, remainder + shift

    share = (elevated - remainder) / (d + 1)
    weights = features.new_zeros(len(features), d + 2)
    weights.scatter_add_(1, d - rank, share)
    weights.scatter_add_(1, d + 1 - rank, -share)
    weights[:, 0] += 1 + weights[:, d + 1]
    return remainder, rank, weights[:, : d + 1]


def _find(used: Tensor, wanted: Tensor) -> Tensor:
    """Rows of ``wanted`` in the sorted ``used``; the row after the last where it is not there."""
    place = torch.searchsorted(used, wanted).clamp_max(len(used) - 1)
    return torch.where(used[place] == wanted, place, len(used))
