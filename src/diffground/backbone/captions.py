"""Phrase embeddings of narratives (Li et al., section 3.1), those beyond CLIP's 77 positions too.

A phrase is the mean of its tokens' embeddings in the encoded caption. What is done with a caption
that does not fit the text encoder is the option ``long_captions``, see
:mod:`diffground.phrases.long_captions`; where a phrase lies whole in several windows, its embedding
is the mean over these.

``B`` captions · ``K`` phrases · ``C`` channels · ``P`` pooled channels
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

import torch
from torch import Tensor

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.text import tokenize
from diffground.errors import InputError
from diffground.phrases.alignment import Span, token_indices
from diffground.phrases.long_captions import LongCaptions, cut_caption

__all__ = ["LongCaptions", "Span", "check_caption", "encode_captions", "lost_phrases"]


def encode_captions(
    backbone: FrozenDiffusion,
    captions: Sequence[str],
    spans: Sequence[Sequence[Span]],
    long_captions: LongCaptions,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """Phrase embeddings ``(B, K, C)``, which of them are real ``(B, K)``, pooled text ``(B, P)``.

    Padded phrases, and those that ``truncate`` lost, are zero and not real. The pooled text (SDXL
    only) is the first window's.

    Args:
        spans: each caption's phrases by character span ``(start, end)``; at least one.

    Raises:
        InputError: a caption has no phrase, a span has no text, or a word or phrase of a caption
            that must be cut does not fit a window alone.
    """
    cut = [
        _windows(backbone, caption, phrases, long_captions)
        for caption, phrases in zip(captions, spans, strict=True)
    ]
    windows = [(row, window) for row, several in enumerate(cut) for window in several]
    encoding = backbone.encode_prompts([window.text for _, window in windows])
    channels = encoding.embeddings.shape[-1]
    total = encoding.embeddings.new_zeros((len(captions), max(map(len, spans)), channels))
    times = torch.zeros(total.shape[:2], dtype=torch.int64, device=total.device)
    if any(window.phrases for _, window in windows):
        means, _ = backbone.encode_phrases(encoding, [window.spans for _, window in windows])
        for mean, (row, window) in zip(means, windows, strict=True):  # mean (K of the window, C)
            total[row, window.phrases] += mean[: len(window.phrases)]
            times[row, window.phrases] += 1
    pooled = None
    if encoding.pooled is not None:
        firsts = [sum(map(len, cut[:row])) for row in range(len(cut))]
        pooled = encoding.pooled[firsts]
    return total / times.clamp(min=1)[..., None].to(total), times > 0, pooled


def check_caption(
    backbone: FrozenDiffusion, caption: str, spans: Sequence[Span], long_captions: LongCaptions
) -> None:
    """Raises the :class:`InputError` that encoding this caption would raise; encodes nothing."""
    windows = _windows(backbone, caption, spans, long_captions)
    limit = backbone.token_room.limit + 2
    for tokenizer in backbone.tokenizers:
        _, _, offsets = tokenize(tokenizer, [window.text for window in windows], limit, "error")
        for window, tokens in zip(windows, offsets, strict=True):
            for span in window.spans:
                token_indices(window.text, tokens, span)


def lost_phrases(
    backbone: FrozenDiffusion, caption: str, spans: Sequence[Span], long_captions: LongCaptions
) -> list[int]:
    """Indices of the phrases that no window holds: with ``truncate``, those beyond the first.

    Raises:
        InputError: as :func:`encode_captions`, but for spans that have no token.
    """
    windows = _windows(backbone, caption, spans, long_captions)
    held = {index for window in windows for index in window.phrases}
    return [index for index in range(len(spans)) if index not in held]


@dataclass(frozen=True)
class _Window:
    """A part of a caption that is encoded by itself, with the phrases that lie whole in it."""

    text: str
    phrases: list[int]  # which of the caption's
    spans: list[Span]  # in ``text``


def _windows(
    backbone: FrozenDiffusion, caption: str, spans: Sequence[Span], long_captions: LongCaptions
) -> list[_Window]:
    """A caption cut to fit the text encoder: the first window, and all others that hold phrases."""
    name = f"caption {caption[:60]!r}"
    if not spans:
        raise InputError(name, "phrases", "there is none to ground")
    for start, end in spans:
        if not 0 <= start < end <= len(caption):
            raise InputError(name, "phrases", f"({start}, {end}) is no part of the caption")
    windows: list[_Window] = []
    room = backbone.token_room
    cuts = cut_caption(caption, spans, room.count, room.limit, long_captions)
    for start, end in cuts:
        inside = [i for i, (a, b) in enumerate(spans) if start <= a and b <= end]
        if inside or not windows:
            shifted = [(spans[i][0] - start, spans[i][1] - start) for i in inside]
            windows.append(_Window(caption[start:end], inside, shifted))
    return windows
