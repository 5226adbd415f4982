"""From phrases to tokens: by the tokenizer's character offsets, never by comparing token texts.

A *span* is ``(start, end)``, half open, in characters of the prompt as the user wrote it. Offsets
have one span per token, ``(0, 0)`` for special and padding tokens.
"""

from __future__ import annotations

import re
import unicodedata
from collections.abc import Sequence

from diffground.errors import InputError

Span = tuple[int, int]


def find_phrase(prompt: str, phrase: str, occurrence: int = 0) -> Span:
    """The span of a phrase in a prompt: whole words, case and width of white space ignored.

    ``occurrence`` counts from 0 where the phrase stands more than once. Raises
    :class:`InputError` when the prompt does not have it ("cup" is not in "two cupcakes").
    """
    words = r"\s+".join(re.escape(word) for word in phrase.split())
    if not words:
        raise InputError("prompt", "phrase", f"{phrase!r} is empty")
    # \b would ask for a letter at the border, which a phrase such as "(red)" does not have.
    found = [m.span() for m in re.finditer(rf"(?<!\w){words}(?!\w)", prompt, re.IGNORECASE)]
    if not 0 <= occurrence < len(found):
        times = f"occurs {len(found)} times as whole words, occurrence {occurrence} was asked for"
        reason = times if found else "does not occur as whole words"
        raise InputError("prompt", "phrase", f"{phrase!r} {reason} in {prompt!r}")
    return found[occurrence]


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
