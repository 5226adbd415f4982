"""What SelfCross is compared with: CBP (002, Table 5) and DAAM (a baseline of the fourth paper).

DAAM (Tang et al., "What the DAAM", 2023) looks at a generation: it sums the maps over its time
steps. Here an image is given, and there are two readings of it. :func:`daam` is ours: one time
step, and undershoots are cut off after the mean over heads. :func:`daam_trajectory` is its public
code's, but for where its maps come from: the image under the noise of every time step that a
generation would have.

``K`` phrases · ``N`` pixels = h·w · ``S`` segments · ``H`` heads · ``T`` tokens

Cross alone and Cross + SelfCross, the table's other rows, need nothing that is not in
:mod:`.selfcross`.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional

from diffground.attention.selfcross import probed_cross
from diffground.backbone.probe import ProbeResult

# Raised when a baseline gives other maps: only CBP's and DAAM's are then made again.
CODE_VERSION: Final = 1

SEGMENTS: Final = 5  # of CBP
DAAM_STEPS: Final = 30  # time steps that DAAM sums over, its public code's default

_ROUNDS = 50  # of k-means at most; it settles after ten or so


def segments_of(self_map: Tensor, count: int, seed: int) -> Tensor:
    """The segment 0 … ``count`` - 1 of every pixel, int64 (N,): k-means over rows of a self map.

    Pixels that attend alike are one segment. ``self_map`` (N, N); ``seed`` decides the first
    centres (k-means++, drawn on the CPU). Fewer distinct rows than ``count`` give fewer segments.
    """
    rows = self_map.float()
    random = torch.Generator("cpu").manual_seed(seed)
    start = int(torch.randint(len(rows), (1,), generator=random))
    centres = rows[start : start + 1]
    nearest = _squared_distances(rows, centres)[:, 0]
    while len(centres) < min(count, len(rows)) and float(nearest.max()) > 0:
        chosen = int(torch.multinomial(nearest.double().cpu(), 1, generator=random))
        centres = torch.cat([centres, rows[chosen : chosen + 1]])
        nearest = nearest.minimum(_squared_distances(rows, centres[-1:])[:, 0])
    labels = _squared_distances(rows, centres).argmin(dim=1)
    for _ in range(_ROUNDS):
        members = functional.one_hot(labels, len(centres)).to(rows)  # (N, S)
        sizes = members.sum(dim=0)[:, None]
        # A segment that lost all its pixels keeps its centre.
        centres = torch.where(sizes > 0, members.T @ rows / sizes.clamp_min(1), centres)
        moved = _squared_distances(rows, centres).argmin(dim=1)
        if torch.equal(moved, labels):
            break
        labels = moved
    return labels


def cbp(self_map: Tensor, cross: Tensor, segments: int, seed: int) -> Tensor:
    """CBP: every pixel takes its segment's mean of Cross (K, h, w); so does the result.

    Table 5 of 002 names it "Controllable Background Preservation": the self-attention map (N, N) is
    clustered, and a segment is labelled by its cross-attention. See :func:`segments_of`.
    """
    labels = segments_of(self_map, segments, seed)
    members = functional.one_hot(labels).to(cross)  # (N, S)
    means = cross.flatten(1) @ members / members.sum(dim=0).clamp_min(1)  # (K, S)
    return means[:, labels].unflatten(1, cross.shape[-2:])


def daam_layers(cross_sites: Sequence[str]) -> tuple[str, ...]:
    """The attn2 modules that DAAM reads: all but those in the middle (15 of 16 in SD 1.x)."""
    return tuple(site for site in cross_sites if not site.startswith("mid_block"))


def daam(
    result: ProbeResult,
    layers: Sequence[str],
    token_indices: Sequence[Sequence[int]],
    size: tuple[int, int],
) -> Tensor:
    """DAAM of one time step: heat maps (K, h, w) ≥ 0 on ``size``, the latents' grid, of one item.

    The mean over layers and over a phrase's tokens of maps enlarged bicubically and cut off at 0.
    The cut is made after the mean over heads (bicubic interpolation is linear: only undershoots
    differ from DAAM's own, which is :func:`daam_trajectory`).
    """
    total = torch.zeros(len(token_indices), *size)
    for layer in layers:
        maps = probed_cross(result, layer)  # (1, tokens, h, w)
        for phrase, tokens in enumerate(token_indices):
            large = functional.interpolate(
                maps[:, list(tokens)], size, mode="bicubic", align_corners=False
            )[0]
            total[phrase] += large.clamp_min(0).mean(dim=0).to(total.device)
    return total / len(layers)


def daam_timesteps(training_steps: int) -> tuple[int, ...]:
    """Those of a generation in :data:`DAAM_STEPS`, as DDIM spaces them: 0-based, noisiest first."""
    return tuple(training_steps // DAAM_STEPS * step for step in reversed(range(DAAM_STEPS)))


def daam_trajectory(
    heads: Mapping[str, Tensor], token_indices: Sequence[Sequence[int]], size: tuple[int, int]
) -> Tensor:
    """DAAM's heat maps (K, h, w) ≥ 0 as its public code has them, on the latents' grid ``size``.

    Every head's maps, summed over the time steps, are enlarged bicubically and cut off at 0; then
    comes the mean over all heads of all layers, and over a phrase's tokens. ``heads`` has each
    layer's summed maps (H, T, h, w).
    """
    tokens = sorted({token for phrase in token_indices for token in phrase})
    total, count = torch.zeros(len(tokens), *size), 0
    for maps in heads.values():
        large = functional.interpolate(maps[:, tokens], size, mode="bicubic", align_corners=False)
        total += large.clamp_min(0).sum(dim=0).to(total.device)
        count += len(maps)
    mean = total / count
    rows = [[tokens.index(token) for token in phrase] for phrase in token_indices]
    return torch.stack([mean[of_phrase].mean(dim=0) for of_phrase in rows])


def _squared_distances(rows: Tensor, centres: Tensor) -> Tensor:
    """Squared Euclidean distances (N, S), from differences: equal rows are exactly 0 apart."""
    exact = "donot_use_mm_for_euclid_dist"
    return torch.cdist(rows, centres, compute_mode=exact).square()
