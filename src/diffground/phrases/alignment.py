"""From phrases to tokens: by the tokenizer's character offsets, never by comparing token texts.

A *span* is ``(start, end)``, half open, in characters of the prompt as the user wrote it. Offsets
have one span per token, ``(0, 0)`` for special and padding tokens.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence

from diffground.errors import InputError

Span = tuple[int, int]


def token_indices(prompt: str, offsets: Sequence[Span], span: Span) -> list[int]:
    """The tokens (SOS is 0) whose characters overlap the span, in order.

    Raises :class:`InputError` when the span is empty or outside of the prompt, or when a part of it
    has no token because the prompt was truncated.
    """
    start, end = span
    if not 0 <= start < end <= len(prompt) or not prompt[start:end].strip():
        raise InputError("prompt", "span", f"({start}, {end}) holds no text of {prompt!r}")
    found = [
        i for i, (first, last) in enumerate(offsets) if first < min(end, last) and last > start
    ]
    first, last = max(offsets, key=lambda offset: offset[1])
    # Characters that the tokenizer composes into one ("e" and an accent) have the first one's span.
    tail = unicodedata.normalize("NFC", prompt[first:end].rstrip())
    if not found or (end > last and len(tail) > last - first):
        raise InputError(
            "prompt",
            "phrase",
            f"{prompt[start:end]!r} lost tokens: the prompt is longer than the text encoder reads",
        )
    return found
