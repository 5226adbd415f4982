"""Extractive-Injective Phrase Adapter: the bypass that updates phrases inside a frozen UNet.

Li et al., "Dynamic Prompting of Frozen Text-to-Image Diffusion Models for Panoptic Narrative
Grounding", section 3.2, equations 6 to 10. At each site (the attn2 of one transformer block)::

    R^(l-1) ── zoom in ─ self-attn (8) ─┬─ cross-attn to F_itm (9) ─ FFN (10) ─ zoom out ── R^(l)
                                        └─ zoom out ── R_itm ─► keys and values of attn2

`R_itm` is injected in the block whose features `F_itm` were read (equations 6 and 7), and `R^(l)`
goes on to the next site; blocks without an adapter are prompted with the last `R^(l)`.

Shapes: ``B`` batch, ``K`` phrases, ``N`` = h·w pixels, ``C`` = C_t text channels, ``V`` = C_v image
channels, ``D`` zoomed channels, ``H`` heads.

What the paper leaves open, and what is done here:

- The zooms. One zoom in and one zoom out per site (both outputs of a site share the latter, as
  only this fits the 3.37M parameters), around which the unzoomed phrase is kept as a residual:
  ``R_itm = R^(l-1) + g out(r_itm)``, ``R^(l) = R^(l-1) + g out(r)``. With ``zoom_out_init: zero``
  the adapter starts as static prompting, exactly. The gain ``g`` (``zoom_out_gain``, 1 unless said
  otherwise) slows down how fast the phrases leave where the frozen model knows them, and with them
  all that reads them; in short trainings a small one is better for the decoder behind.
- The norms. Three LayerNorm(D) per site, likewise counted. ``norm: pre`` (default) puts them before
  the three layers, where they leave equations 8 to 10's residual sums untouched; ``post`` behind
  each sum, as in Mask2Former. Keys and values are projected V -> D from ``F_itm``, whose channels
  are first brought to mean 0 and variance 1 per pixel (``features: normalised``, no parameters), as
  the UNet's own cross-attention normalises them; a residual stream grows from block to block.
- The FFN is D -> ffn -> D with GELU; ffn = 32 gives 3.366M at the sizes of Stable Diffusion 1.5.
- The attention mask. The Diffusion mask head's prediction as known at that block: the maps of the
  blocks passed so far, summed with the head's weights (``accumulated``) or the last map alone
  (``previous``), min-max normalised per phrase, resized to the block, blocked below
  ``MASK_THRESHOLD``, and never differentiated. A phrase that would see nothing sees everything
  (Mask2Former); so does every phrase before the first map.
"""

from __future__ import annotations

import math
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Final

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffground.attention.selfcross import minmax
from diffground.backbone.adapter import State
from diffground.errors import InputError
from diffground.papers.png.config import EipaConfig, Insertion
from diffground.papers.png.map_operations import open_rows, resize_maps

# Raised when the same settings and weights give other prompts or maps, or a seed other weights.
CODE_VERSION: Final = 1

MASK_THRESHOLD: Final = 0.5  # of the min-max normalised map; Mask2Former's, the paper names none

_FIXED = 3  # entries of the state before the sites' outputs: see EIPA.start


def insertion_sites(sites: tuple[str, ...], insertion: Insertion) -> tuple[str, ...]:
    """Those of a UNet's attn2 names (in execution order) that get an adapter (Table 3).

    ``encoder`` is every site of ``down_blocks``, ``decoder`` of ``up_blocks``; the middle block
    never has one. In SD 1.x: 6, 9, and 15 for ``both``.
    """
    roots = {"none": (), "encoder": ("down_blocks.",), "decoder": ("up_blocks.",)}
    roots["both"] = roots["encoder"] + roots["decoder"]
    return tuple(site for site in sites if site.startswith(roots[insertion]))


@dataclass(frozen=True)
class EipaOutputs:
    """What the adapter's sites produced, in their order."""

    phrases: list[Tensor]  # R^(l), (B, K, C)
    scores: list[Tensor]  # cross-attention before masking and softmax, head mean, (B, K, h, w)


class Attention(nn.Module):
    """Multi-head attention that also returns its scores; keys may have other channels."""

    def __init__(self, channels: int, context_channels: int, heads: int) -> None:
        super().__init__()
        self.heads = heads
        self.q = nn.Linear(channels, channels)
        self.k = nn.Linear(context_channels, channels)
        self.v = nn.Linear(context_channels, channels)
        self.o = nn.Linear(channels, channels)

    def forward(
        self, query_BKD: Tensor, context_BNV: Tensor, blocked_BKN: Tensor | None
    ) -> tuple[Tensor, Tensor]:
        """Output ``(B, K, D)`` and scores ``(B, K, N)``: head mean, before blocking and softmax.

        ``blocked`` (broadcastable to ``(B, K, N)``) is True where a query must not look; no row of
        it may be wholly True.
        """
        q, k, v = (
            layer(x).unflatten(-1, (self.heads, -1)).transpose(1, 2)
            for layer, x in ((self.q, query_BKD), (self.k, context_BNV), (self.v, context_BNV))
        )
        scores = q @ k.transpose(-1, -2) / math.sqrt(q.shape[-1])  # (B, H, K, N)
        masked = scores
        if blocked_BKN is not None:
            masked = scores.masked_fill(blocked_BKN.unsqueeze(1), float("-inf"))
        mixed = masked.float().softmax(-1).to(v.dtype) @ v
        return self.o(mixed.transpose(1, 2).flatten(2)), scores.mean(1)


class PhraseAdapter(nn.Module):
    """One site's adapter: equations 8 to 10 between a zoom in and a zoom out."""

    def __init__(self, context_dim: int, width: int, config: EipaConfig) -> None:
        super().__init__()
        zoom = config.zoom
        self.pre = config.norm == "pre"
        self.normalised = config.features == "normalised"
        self.gain = config.zoom_out_gain
        self.zoom_in = nn.Linear(context_dim, zoom)
        self.self_attention = Attention(zoom, zoom, config.heads)
        self.cross_attention = Attention(zoom, width, config.heads)
        self.ffn = nn.Sequential(
            nn.Linear(zoom, config.ffn), nn.GELU(), nn.Linear(config.ffn, zoom)
        )
        self.norms = nn.ModuleList(nn.LayerNorm(zoom) for _ in range(3))
        self.zoom_out = nn.Linear(zoom, context_dim)
        if config.zoom_out_init == "zero":
            nn.init.zeros_(self.zoom_out.weight)
            nn.init.zeros_(self.zoom_out.bias)

    def forward(
        self, phrases_BKC: Tensor, features_BNV: Tensor, padded_BK: Tensor, blocked: Tensor | None
    ) -> tuple[Tensor, Tensor, Tensor]:
        """``R_itm`` (B, K, C), ``R^(l)`` (B, K, C) and the cross-attention scores (B, K, N).

        Args:
            phrases_BKC: ``R^(l-1)``.
            features_BNV: ``F_itm``.
            padded_BK: True where there is no phrase: nobody attends there.
            blocked: (B, K, N), True where a phrase must not look, or None.
        """
        r = self.zoom_in(phrases_BKC)
        padded = open_rows(padded_BK).unsqueeze(1)  # (B, 1, K)
        r_itm = self._add(0, r, lambda x: self.self_attention(x, x, padded)[0])
        scores: list[Tensor] = []
        if self.normalised:
            features_BNV = functional.layer_norm(features_BNV, features_BNV.shape[-1:])

        def cross(x: Tensor) -> Tensor:
            output, score = self.cross_attention(x, features_BNV, blocked)
            scores.append(score)
            return output

        r_bar = self._add(1, r_itm, cross)
        r = self._add(2, r_bar, self.ffn)
        prompt, updated = (phrases_BKC + self.gain * self.zoom_out(x) for x in (r_itm, r))
        return prompt, updated, scores[0]

    def _add(self, index: int, x: Tensor, layer: Callable[[Tensor], Tensor]) -> Tensor:
        """``layer(x) + x``, with this layer's norm before the layer or behind the sum."""
        norm = self.norms[index]
        return layer(norm(x)) + x if self.pre else norm(layer(x) + x)


class EIPA(nn.Module):
    """The adapters of all sites, as a ``SiteAdapter`` of :meth:`FrozenDiffusion.probe`.

    Pure: all that changes during a pass travels in the state, so that activation checkpointing may
    run a block twice. Padded phrases take no part in self-attention; a caption without any valid
    phrase gives finite, meaningless numbers.

    Args:
        widths: channels C_v of each site, by attn2 name, in execution order.
        context_dim: C_t.
        map_weights: the Diffusion mask head's weight of a block's cross map, by attn2 name
            (:meth:`DiffusionHead.weight`); None weighs all alike. Read anew in every pass.

    Raises:
        InputError: no site is given.
    """

    def __init__(
        self,
        widths: Mapping[str, int],
        context_dim: int,
        config: EipaConfig,
        map_weights: Callable[[str], Tensor] | None = None,
    ) -> None:
        super().__init__()
        if not widths:
            raise InputError("EIPA", "insertion", "the adapter has no site in this UNet")
        self.config = config
        self.sites = tuple(widths)
        self.map_weights = map_weights
        self.blocks = nn.ModuleDict(
            {
                _key(site): PhraseAdapter(context_dim, width, config)
                for site, width in widths.items()
            }
        )

    def start(self, context: Tensor, context_mask: Tensor) -> State:
        """The state before the first block, for phrases ``(B, K, C)`` of which ``(B, K)`` are real.

        ``(R, valid, map, R^(1), score^(1), R^(2), ...)``, where ``map`` (B, K, h, w) is the
        weighted sum of the cross maps so far, at the finest size met; zero before the first.
        """
        nothing = context.new_zeros((*context.shape[:2], 1, 1), dtype=torch.float32)
        return context, context_mask, nothing

    def context(self, state: State) -> Tensor:
        """The prompt ``R`` (B, K, C) of a block that has no adapter."""
        return state[0]

    def before(
        self, site: str, features: Tensor, size: tuple[int, int], state: State
    ) -> tuple[Tensor, State]:
        """Equations 7 to 10: the block's prompt ``R_itm`` and the state with ``R^(l)``.

        ``features`` is ``F_itm`` (B, h·w, C_v) after the block's self-attention; ``size`` (h, w).
        """
        phrases, valid, maps = state[:_FIXED]
        adapter = self.blocks[_key(site)]
        assert isinstance(adapter, PhraseAdapter)
        # The phrases travel in the adapter's own precision, whatever the UNet's is.
        own = adapter.zoom_in.weight.dtype
        r_itm, phrases, scores = adapter(
            phrases.to(own), features.to(own), ~valid, self._blocked(maps, size)
        )
        outputs = (phrases, scores.unflatten(-1, size))
        return r_itm.to(features.dtype), (phrases, valid, maps, *state[_FIXED:], *outputs)

    def after(self, site: str, probs: Tensor, state: State) -> State:
        """Notes a block's cross map ``(B, K, h, w)`` (softmax over phrases, head mean)."""
        if self.config.attention_mask == "none":
            return state
        with torch.no_grad():
            phrases, valid, maps = state[:_FIXED]
            probs = probs.detach().float()
            if self.config.attention_mask == "previous":
                maps = probs
            else:
                weight = self.map_weights(site) if self.map_weights else torch.ones(()).to(maps)
                finest = tuple(max(probs.shape[-2:], maps.shape[-2:]))
                maps = resize_maps(maps, finest) + weight * resize_maps(probs, finest)
        return (phrases, valid, maps, *state[_FIXED:])

    def outputs(self, state: State) -> EipaOutputs:
        """What the sites left in the last state of a pass."""
        assert len(state) == _FIXED + 2 * len(self.sites), "the pass did not reach every site"
        return EipaOutputs(list(state[_FIXED::2]), list(state[_FIXED + 1 :: 2]))

    def _blocked(self, maps: Tensor, size: tuple[int, int]) -> Tensor | None:
        """(B, K, N), True where the Diffusion head does not see the phrase.

        The map need not be divided by the weights met so far: min-max undoes any scale.
        """
        if self.config.attention_mask == "none":
            return None
        blocked = resize_maps(minmax(maps), size).flatten(2) < MASK_THRESHOLD
        return open_rows(blocked)


def _key(site: str) -> str:
    """A module name (dots are not allowed in one) for an attn2 name."""
    return site.removesuffix(".attn2").replace(".", "-")
