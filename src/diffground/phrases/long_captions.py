"""Where a caption that is longer than the text encoder's window is cut.

The paper (Li et al., section 4.2) takes narratives of up to 230 words and CLIP reads 77 positions;
what lies between is not said, so it is an explicit choice. A caption that fits is one window under
every option. Of a longer one:

- ``per_sentence``: consecutive whole sentences, as many as fit, share a window. A sentence that
  does not fit alone is cut between words;
- ``sliding``: windows as full as words allow, each starting half a window after the one before, so
  that words near a border have context in the neighbour;
- ``truncate``: the first window alone, for comparison with pipelines that drop the rest.

No window cuts a phrase. Here *room* is the window without its start and end tokens, and an *atom*
is what is never cut: a word, or a phrase with what is written to it without a blank.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Literal

from diffground.errors import InputError
from diffground.phrases.alignment import Span

LongCaptions = Literal["per_sentence", "sliding", "truncate"]

_Range = tuple[int, int]  # of atoms, end exclusive
_SENTENCE_END = re.compile(r"""[.!?]["'”’)\]]*\s*$""")


def cut_caption(
    caption: str,
    phrases: Sequence[Span],
    count: Callable[[Sequence[str]], list[int]],
    room: int,
    long_captions: LongCaptions,
) -> list[Span]:
    """Character spans of the windows, each of at most ``room`` tokens, in the caption's order.

    Every phrase lies whole in at least one window, but for ``truncate``.

    Args:
        phrases: the character spans that must not be cut.
        count: the number of tokens of each of several texts.

    Raises:
        InputError: the caption does not fit, and a word or phrase alone has more than ``room``
            tokens, under every option.
    """
    if count([caption])[0] <= room:
        return [(0, len(caption))]
    inside = {i for start, end in phrases for i in range(start + 1, end)}
    ends = [match.end() for match in re.finditer(r"\s+", caption) if match.end() not in inside]
    bounds = [0, *(end for end in ends if 0 < end < len(caption)), len(caption)]
    atoms = [caption[start:end] for start, end in zip(bounds, bounds[1:], strict=False)]
    sizes = count(atoms)
    for atom, size in zip(atoms, sizes, strict=True):
        if size > room:
            reason = f"{atom.strip()!r} is too long alone: {size} tokens, there is room for {room}"
            raise InputError(f"caption {caption[:60]!r}", "phrases", reason)
    if long_captions == "per_sentence":
        ranges = _sentences(atoms, sizes, room)
    elif long_captions == "sliding":
        ranges = _sliding(sizes, room)
    else:
        ranges = [(0, _fill(sizes, 0, room))]
    return [(bounds[first], bounds[last]) for first, last in ranges]


def _fill(sizes: Sequence[int], first: int, room: int) -> int:
    """The end of the longest range from ``first`` on that fits."""
    last, total = first, 0
    while last < len(sizes) and total + sizes[last] <= room:
        total += sizes[last]
        last += 1
    return last


def _sentences(atoms: Sequence[str], sizes: Sequence[int], room: int) -> list[_Range]:
    """Cut behind the last sentence that fits, or between words where not one does."""
    ranges: list[_Range] = []
    first = 0
    while first < len(atoms):
        last = _fill(sizes, first, room)
        if last < len(atoms):
            stops = [i for i in range(first, last) if _SENTENCE_END.search(atoms[i])]
            last = stops[-1] + 1 if stops else last
        ranges.append((first, last))
        first = last
    return ranges


def _sliding(sizes: Sequence[int], room: int) -> list[_Range]:
    """Full windows, each at least ``room / 2`` tokens after the one before, none skipping an atom.

    The last is moved back until it is full, so its phrases have as much context as the others'.
    """
    ranges = [(0, _fill(sizes, 0, room))]
    while ranges[-1][1] < len(sizes):
        first, last = ranges[-1]
        start, moved = first, 0
        while start < last and moved < room / 2:
            moved += sizes[start]
            start += 1
        end = _fill(sizes, start, room)
        if end == len(sizes):
            while start - 1 > first and sum(sizes[start - 1 :]) <= room:
                start -= 1
        ranges.append((start, end))
    return ranges
