"""SelfCross: cross-attention propagated along self-attention (Text2Mask, 002, §3.2, eq. 2 to 4).

``K`` phrases · ``N`` pixels = h·w
"""

from __future__ import annotations

from collections.abc import Sequence

import torch
from torch import Tensor
from torch.nn import functional

from diffground.backbone.probe import ProbeResult
from diffground.errors import InputError


def aggregate_cross(
    result: ProbeResult,
    layers: Sequence[str],
    token_indices: Sequence[Sequence[int]],
    size: tuple[int, int],
) -> Tensor:
    """Cross of eq. 3: each phrase's map (K, h, w), the mean over its tokens and over the layers.

    ``token_indices`` has the tokens of every phrase; each layer's maps are resized to ``size``
    (bilinear) before the mean. Probabilities, so in [0, 1]. The result must hold one item: take
    :meth:`ProbeResult.item` of a batch. Raises :class:`InputError` for a layer that was not probed.
    """
    total: Tensor | None = None
    for layer in layers:
        maps = probed_cross(result, layer)
        phrases = torch.stack([maps[:, list(tokens)].mean(dim=1) for tokens in token_indices], 1)
        resized = functional.interpolate(phrases, size, mode="bilinear", align_corners=False)[0]
        total = resized if total is None else total + resized
    if total is None:
        raise InputError("request", "cross", "no layer is given to aggregate")
    return total / len(layers)


def probed_cross(result: ProbeResult, layer: str) -> Tensor:
    """A layer's maps (1, tokens, h, w) of a result of one item; InputError if it has none."""
    if layer not in result.cross:
        raise InputError("request", "cross", f"{layer!r} was not probed")
    maps = result.cross[layer]
    assert maps.shape[0] == 1, "one item at a time: pass result.item(index)"
    return maps


def propagate(self_map: Tensor, maps: Tensor, iterations: int, sharpen: float = 1.0) -> Tensor:
    """SelfCross of eq. 3: ``Self^iterations · Cross``, as successive products with (K, h, w) maps.

    ``self_map`` (N, N) has rows that sum to 1, so values stay within the range of ``maps``; its
    power is never formed. ``sharpen`` raises every entry to that power and makes rows sum to 1
    again: more than 1 gives narrower rows. Both may have further leading axes, which broadcast.
    """
    if sharpen != 1.0:
        self_map = self_map**sharpen
        self_map = self_map / self_map.sum(dim=-1, keepdim=True)
    columns = maps.flatten(-2).transpose(-1, -2)  # (N, K)
    for _ in range(iterations):
        columns = self_map @ columns
    return columns.transpose(-1, -2).unflatten(-1, maps.shape[-2:])


def minmax(maps: Tensor) -> Tensor:
    """Eq. 4: every map of (..., h, w) stretched to [0, 1]; a constant map becomes 0, not NaN."""
    low, high = maps.amin(dim=(-2, -1), keepdim=True), maps.amax(dim=(-2, -1), keepdim=True)
    return (maps - low) / (high - low).clamp_min(1e-8)


def effective_positions(self_map: Tensor) -> float:
    """Over how many pixels a row of a self map (..., N, N) spreads: the mean of exp(entropy).

    1 is attention to a single pixel, N is uniform attention.
    """
    entropy = torch.special.entr(self_map.double()).sum(dim=-1)  # entr is 0 at 0
    return float(entropy.exp().mean())
