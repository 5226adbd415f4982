"""What is asked of a scene: a personal object, by its pictures and by words (002, §4)."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

from diffground.errors import InputError


@dataclass(frozen=True)
class Query:
    """One object asked for in a scene.

    Attributes:
        item: the personal item that was learned, "mug07".
        token: the word that means it, "<new1>".
        word: the class word, "mug".
        context: the words without the token, "a mug filled with cola".
        references: pictures of the item.
    """

    item: str
    token: str
    word: str
    context: str
    references: tuple[Path, ...] = ()

    @property
    def description(self) -> str:
        """The whole query (§5.3), "a <new1> mug filled with cola".

        Raises InputError where the context lacks the class word, or has it twice.
        """
        return personal(self.context, self.token, self.word)

    def pictures(self) -> tuple[Path, ...]:
        """The references, for what learns from them or compares; InputError without any."""
        if not self.references:
            raise InputError(self.item, "references", "there are no pictures of it; give some")
        return self.references

    @property
    def subject(self) -> str:
        """The query without its context, "a <new1> mug" (§5.3, Subject Only)."""
        return f"a {self.token} {self.word}"


def personal(context: str, token: str, word: str) -> str:
    """A context with the personal token before its class word (§5.3).

    Args:
        context: "a mug filled with cola"; the class word stands in it once, as a whole word.
        token: "<new1>".
        word: "mug".

    Returns:
        "a <new1> mug filled with cola".

    Raises:
        InputError: the context lacks the class word, or has it more than once.
    """
    pattern = rf"(?<!\w){re.escape(word)}(?!\w)"
    count = len(re.findall(pattern, context))
    if count != 1:
        times = "is missing" if count == 0 else f"stands {count} times"
        reason = f"the class word {word!r} {times}; it takes the token's place, so say it once"
        raise InputError(context, "context", reason)
    return re.sub(pattern, lambda found: f"{token} {found[0]}", context)
