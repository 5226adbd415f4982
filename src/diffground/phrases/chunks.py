"""Where the chunks of a narrative stand in its caption.

The benchmark gives a caption and, apart from it, the ordered chunks ("utterances") it was cut
into, lower-cased and tokenised: ``don't`` may come back as ``do`` + ``n't``, ``t-shirt`` as
``t - shirt``, a curly apostrophe as a straight one. What survives is the order of letters and
digits, so that is what is compared: both sides are reduced to their letters and digits (case and
accents folded), each remembering its character in the caption, and the chunks are walked in order.
Blanks and punctuation on either side then cost nothing, and no phrase is ever looked up by
substring: the second "tree" of a caption is the second "tree" of its chunks.
"""

from __future__ import annotations

import unicodedata
from collections.abc import Sequence
from functools import lru_cache

Span = tuple[int, int]


def align_chunks(caption: str, chunks: Sequence[str]) -> list[Span | None]:
    """The character span ``(start, end)`` of each chunk in the caption, end exclusive.

    The spans are in order and do not overlap; a chunk without letters or digits (``"."``) gets
    None. A chunk that does not stand at the next letter is searched further on (the caption has
    words that no chunk has) and accepted only if it occurs exactly once, as whole words.

    Raises:
        ValueError: a chunk cannot be placed without guessing; the message names it.
    """
    text = _Folded(caption)
    folded = [_Folded(chunk).letters for chunk in chunks]
    spans: list[Span | None] = []
    at = 0
    for number, wanted in enumerate(folded):
        if not wanted:
            spans.append(None)
            continue
        following = next(filter(None, folded[number + 1 :]), "")
        if not _continues(text, at, wanted, following):
            later = [place for place in _whole_words(text, wanted) if place >= at]
            if len(later) != 1:
                name = f"chunk {number} {chunks[number]!r}"
                rest = caption[text.places[at] :] if at < len(text.places) else ""
                what = f"occurs {len(later)} times in" if later else "is not in"
                raise ValueError(f"{name} {what} the rest of the caption {rest!r}")
            at = later[0]
        last = at + len(wanted)
        spans.append((text.places[at], _end(caption, text.places[last - 1])))
        at = last
    return spans


class _Folded:
    """A text reduced to its folded letters and digits.

    Attributes:
        letters: them, in one string.
        places: the index in the text that each came from.
    """

    def __init__(self, text: str) -> None:
        self.text = text
        letters: list[str] = []
        self.places: list[int] = []
        for place, character in enumerate(text):
            kept = _fold(character)
            letters.append(kept)
            self.places += [place] * len(kept)
        self.letters = "".join(letters)

    def closes(self, at: int) -> bool:
        """Whether a word ends before letter ``at``: a blank or a sign stands there, or nothing."""
        if at in (0, len(self.letters)):
            return True
        between = self.text[self.places[at - 1] + 1 : self.places[at]]
        return any(not unicodedata.combining(character) for character in between)


@lru_cache(maxsize=4096)
def _fold(character: str) -> str:
    """One character's letters and digits: several ("ß" -> "ss"), or none (a combining accent)."""
    folded = unicodedata.normalize("NFKD", character).casefold()
    return "".join(letter for letter in folded if letter.isalnum())


def _continues(text: _Folded, at: int, wanted: str, following: str) -> bool:
    """Whether ``wanted`` stands at ``at`` and ends a word, or ends where the next chunk goes on.

    Without the second half "a" would be found in "an".
    """
    last = at + len(wanted)
    if not text.letters.startswith(wanted, at):
        return False
    return text.closes(last) or (following != "" and text.letters.startswith(following, last))


def _whole_words(text: _Folded, wanted: str) -> list[int]:
    """The places in the letters where ``wanted`` begins and ends with a word of the caption."""
    found = []
    start = text.letters.find(wanted)
    while start >= 0:
        if text.closes(start) and text.closes(start + len(wanted)):
            found.append(start)
        start = text.letters.find(wanted, start + 1)
    return found


def _end(caption: str, last: int) -> int:
    """The index after the character at ``last`` and the combining accents that belong to it."""
    end = last + 1
    while end < len(caption) and unicodedata.combining(caption[end]):
        end += 1
    return end
