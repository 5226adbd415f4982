"""The fusion module: queries attend to visual tokens, and become mask embeddings.

Grounded Diffusion has one decoder on the tokens of the finest map (003, section 3.4); IOSD one for
each level, coarse to fine, each of which takes over the queries of the one before (004, section 3.1
and Figure 4). A token is a patch of the map; keys and values are the tokens, without positions.

Few queries meet many tokens, so that keys and values are never made: ``(W_q x)·(W_k t)`` is
``(W_kᵀ W_q x)·t``, and the weighted mean of ``W_v t`` is ``W_v`` of the weighted mean of ``t``.

``B`` images · ``N`` queries · ``T`` tokens · ``D`` channels · ``H`` heads
"""

from __future__ import annotations

import math
from collections.abc import Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional

from diffground.papers.grounded.module_config import GroundingModuleConfig


def perceptron(width: int, hidden: int, out_width: int) -> nn.Sequential:
    """Three linear layers with ReLUs between them."""
    return nn.Sequential(
        nn.Linear(width, hidden),
        nn.ReLU(),
        nn.Linear(hidden, hidden),
        nn.ReLU(),
        nn.Linear(hidden, out_width),
    )


class Attention(nn.Module):
    """Multi-head attention without biases, from few queries to any number of tokens."""

    def __init__(self, width: int, heads: int, dropout: float) -> None:
        super().__init__()
        self.heads = heads
        self.scale = math.sqrt(heads / width)
        self.qkv = nn.Linear(width, 3 * width, bias=False)
        nn.init.xavier_uniform_(self.qkv.weight)  # as torch's attention does
        self.out = nn.Linear(width, width, bias=False)
        self.dropout = nn.Dropout(dropout)

    def forward(self, queries: Tensor, tokens: Tensor, allowed: Tensor | None = None) -> Tensor:
        """(B, N, D) of queries (B, N, D) and tokens (B, T, D).

        ``allowed`` (B, N, T) is True where a query may look, somewhere in every row.
        """
        by_head = self.qkv.weight.unflatten(0, (3, self.heads, -1))  # (3, H, D/H, D)
        to_query, to_key, to_value = by_head
        asked = torch.einsum("bnd,hed->bhne", queries, to_query)
        asked = torch.einsum("bhne,hed->bhnd", asked, to_key)
        number = asked.shape[1:3]
        scores = (asked.flatten(1, 2) @ tokens.transpose(1, 2)).unflatten(1, number) * self.scale
        if allowed is not None:
            scores = scores.masked_fill(~allowed[:, None], float("-inf"))
        shares = self.dropout(scores.softmax(dim=-1))
        seen = (shares.flatten(1, 2) @ tokens).unflatten(1, number)  # (B, H, N, D)
        seen = torch.einsum("bhnd,hed->bnhe", seen, to_value)
        return self.out(seen.flatten(2))


class DecoderLayer(nn.Module):
    """Self-attention of the queries, attention to the tokens, FFN; each after its norm."""

    def __init__(self, config: GroundingModuleConfig) -> None:
        super().__init__()
        self.self_attention = Attention(config.width, config.heads, config.dropout)
        self.cross_attention = Attention(config.width, config.heads, config.dropout)
        self.ffn = nn.Sequential(
            nn.Linear(config.width, config.ffn),
            nn.ReLU(),
            nn.Dropout(config.dropout),
            nn.Linear(config.ffn, config.width),
        )
        self.norms = nn.ModuleList(nn.LayerNorm(config.width) for _ in range(3))
        self.dropout = nn.Dropout(config.dropout)

    def forward(self, queries: Tensor, tokens: Tensor, allowed: Tensor) -> Tensor:
        """Queries (B, N, D); ``allowed`` (B, N, N) says which of them see each other."""
        x = self.norms[0](queries)
        queries = queries + self.dropout(self.self_attention(x, x, allowed))
        x = self.norms[1](queries)
        queries = queries + self.dropout(self.cross_attention(x, tokens))
        return queries + self.dropout(self.ffn(self.norms[2](queries)))


class Stage(nn.Module):
    """A decoder on the tokens of one map.

    Args:
        map_width: channels of the map.
        query_width: channels of the queries that come in.
    """

    def __init__(self, map_width: int, query_width: int, config: GroundingModuleConfig) -> None:
        super().__init__()
        self.patch = config.patch
        self.to_tokens = nn.Linear(map_width * config.patch**2, config.width, bias=False)
        self.to_queries = nn.Linear(query_width, config.width, bias=False)
        self.layers = nn.ModuleList(DecoderLayer(config) for _ in range(config.layers))

    def forward(self, queries: Tensor, maps: Tensor, allowed: Tensor) -> Tensor:
        """Queries (B, N, width) of queries (B, N, query_width) and maps (B, map_width, h, w).

        Rows and columns of the map that fill no patch are left out.
        """
        # A linear layer on patches is a convolution that does not overlap; no patch is copied.
        kernel = self.to_tokens.weight.unflatten(1, (-1, self.patch, self.patch))
        tokens = functional.conv2d(maps, kernel, stride=self.patch).flatten(2).transpose(1, 2)
        x = self.to_queries(queries)
        for layer in self.layers:
            x = layer(x, tokens, allowed)
        return x


class Fusion(nn.Module):
    """From text queries to mask embeddings.

    Args:
        text_width: channels of the text embeddings.
        map_widths: channels of the maps that are looked at, one after the other.
        out_width: channels of the mask embeddings.
    """

    def __init__(
        self,
        text_width: int,
        map_widths: Sequence[int],
        out_width: int,
        config: GroundingModuleConfig,
    ) -> None:
        super().__init__()
        self.joint = config.joint
        self.enter: nn.Module = nn.Identity()
        if config.pyramid:
            self.enter = perceptron(text_width, config.hidden, config.width)
            text_width = config.width
        query_widths = [text_width] + [config.width] * (len(map_widths) - 1)
        self.stages = nn.ModuleList(
            Stage(map_width, query_width, config)
            for map_width, query_width in zip(map_widths, query_widths, strict=True)
        )
        self.leave = perceptron(config.width, config.hidden, out_width)

    def forward(self, queries: Tensor, valid: Tensor, maps: Sequence[Tensor]) -> Tensor:
        """Embeddings (B, N, out_width) of text (B, N, text_width), ``valid`` (B, N), and maps."""
        allowed = torch.eye(queries.shape[1], dtype=torch.bool, device=queries.device)[None]
        if self.joint:
            allowed = allowed | valid[:, None]  # a query sees itself and all real ones
        x = self.enter(queries)
        for stage, level in zip(self.stages, maps, strict=True):
            x = stage(x, level, allowed)
        return self.leave(x)
