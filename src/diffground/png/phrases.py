"""Phrase embeddings of narratives (Li et al., section 3.1), those beyond CLIP's 77 positions too.

The paper allows captions of 230 words and does not say how they go through CLIP. Here it is an
explicit choice: ``error`` refuses a caption that does not fit; ``chunk`` cuts it between words, at
the last full stop that fits if there is one, never inside a phrase, and encodes the pieces apart.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffground.backbone.alignment import token_indices
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.text import tokenize
from diffground.errors import InputError

LongCaptions = Literal["error", "chunk"]
Span = tuple[int, int]


def encode_captions(
    backbone: FrozenDiffusion,
    captions: Sequence[str],
    spans: Sequence[Sequence[Span]],
    long_captions: LongCaptions,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Phrase embeddings ``(B, K, C)``, which of them are real ``(B, K)``, pooled text ``(B, P)``.

    A phrase is the mean of its tokens' embeddings in the encoded caption. The pooled text (SDXL
    only) is the first piece's.

    Args:
        spans: each caption's phrases by character span ``(start, end)``; at least one.

    Raises:
        InputError: a caption has no phrase, is too long (``error``), or one phrase alone is.
    """
    pieces = [
        (row, piece)
        for row, (caption, phrases) in enumerate(zip(captions, spans, strict=True))
        for piece in _pieces(backbone, caption, phrases, long_captions)
    ]
    encoding = backbone.encode_prompts([piece.text for _, piece in pieces])
    embeddings, _ = backbone.encode_phrases(encoding, [piece.spans for _, piece in pieces])
    longest = max(len(phrases) for phrases in spans)
    result = embeddings.new_zeros((len(captions), longest, embeddings.shape[-1]))
    valid = torch.zeros((len(captions), longest), dtype=torch.bool, device=embeddings.device)
    first: dict[int, int] = {}
    for index, (row, piece) in enumerate(pieces):
        first.setdefault(row, index)
        result[row, piece.phrases] = embeddings[index, : len(piece.phrases)]
        valid[row, piece.phrases] = True
    pooled = None
    if encoding.pooled is not None:
        pooled = encoding.pooled[[first[row] for row in range(len(captions))]]
    return result, valid, pooled


def check_caption(
    backbone: FrozenDiffusion, caption: str, spans: Sequence[Span], long_captions: LongCaptions
) -> None:
    """Raises the :class:`InputError` that encoding this caption would raise; encodes nothing."""
    pieces = _pieces(backbone, caption, spans, long_captions)
    room = _room(backbone) + 2
    for tokenizer in backbone.tokenizers:
        _, _, offsets = tokenize(tokenizer, [piece.text for piece in pieces], room, "error")
        for piece, tokens in zip(pieces, offsets, strict=True):
            for span in piece.spans:
                token_indices(piece.text, tokens, span)


@dataclass(frozen=True)
class _Piece:
    """A part of a caption that is encoded by itself, with its phrases."""

    text: str
    phrases: list[int]  # which of the caption's
    spans: list[Span]  # in ``text``


def _pieces(
    backbone: FrozenDiffusion, caption: str, spans: Sequence[Span], long_captions: LongCaptions
) -> list[_Piece]:
    """A caption cut to fit the text encoder, without the parts that hold no phrase."""
    if not spans:
        raise InputError(f"caption {caption[:60]!r}", "phrases", "there is none to ground")
    cuts = [(0, len(caption))]
    if long_captions == "chunk":
        cuts = cut_caption(caption, spans, _counter(backbone), _room(backbone))
    pieces = []
    for start, end in cuts:
        inside = [i for i, (a, b) in enumerate(spans) if start <= a and b <= end]
        if inside:
            shifted = [(spans[i][0] - start, spans[i][1] - start) for i in inside]
            pieces.append(_Piece(caption[start:end], inside, shifted))
    return pieces


def cut_caption(
    caption: str, phrases: Sequence[Span], count: Callable[[Sequence[str]], list[int]], room: int
) -> list[Span]:
    """Character spans of pieces of at most ``room`` tokens that cover the caption, words whole.

    Args:
        count: the number of tokens of each of several texts.

    Raises:
        InputError: a word or phrase alone has more than ``room`` tokens.
    """
    inside = {i for start, end in phrases for i in range(start + 1, end)}
    ends = [match.end() for match in re.finditer(r"\s+", caption) if match.end() not in inside]
    bounds = [0, *(end for end in ends if 0 < end < len(caption)), len(caption)]
    atoms = list(zip(bounds, bounds[1:], strict=False))
    sizes = count([caption[start:end] for start, end in atoms])
    pieces: list[Span] = []
    first = 0
    while first < len(atoms):
        last, total = first, 0
        while last < len(atoms) and total + sizes[last] <= room:
            total += sizes[last]
            last += 1
        if last == first:
            text = caption[slice(*atoms[first])]
            raise InputError(f"caption {caption[:60]!r}", "phrases", f"{text!r} is too long alone")
        if last < len(atoms):
            stops = [i for i in range(first, last) if _stops(caption[slice(*atoms[i])])]
            last = stops[-1] + 1 if stops else last
        pieces.append((atoms[first][0], atoms[last - 1][1]))
        first = last
    return pieces


def _stops(text: str) -> bool:
    return text.rstrip().endswith(".")


def _room(backbone: FrozenDiffusion) -> int:
    """Positions left for text beside the start and end tokens."""
    encoders: list[Any] = list(backbone.text_encoders)
    positions = [int(encoder.config.max_position_embeddings) for encoder in encoders]
    return min(*positions, *(int(t.model_max_length) for t in backbone.tokenizers)) - 2


def _counter(backbone: FrozenDiffusion) -> Callable[[Sequence[str]], list[int]]:
    def count(texts: Sequence[str]) -> list[int]:
        counts = [
            [len(ids) for ids in tokenizer(list(texts), add_special_tokens=False)["input_ids"]]
            for tokenizer in backbone.tokenizers
        ]
        return [max(column) for column in zip(*counts, strict=True)]

    return count
