"""Text queries: classes, their synonyms and background words as prompts (002, §3.3, appendix A).

Two styles (Table 6). *composed*, the paper's: all classes of an image share one sentence, and the
background words stand at its end, "a photo including boat, person with clothes, river, ..., and
mountain." *separate*: a sentence for each class, with that class's background words. The paper
shows no separate query; its only sentence about one object (§5.3) is the composed one with a single
class, and that is what is written here.

Which tokens count for a phrase is said by spans of characters; ``compat`` chooses them, and
the vocabulary's words where the public code has its own:

- ``official``: one span for all that stands for the class. The public code takes every token of
  "backpack, bag", the comma too;
- ``paper``: a span for each synonym, so the words and not the comma between them.

A sentence that is longer than the text encoder reads (none of COCO 2014's training images has one,
its longest is of 67 tokens; class lists of one's own may):

- ``official``: stays whole here and is truncated when it is encoded, as in the public code; what is
  lost is warned of there (:mod:`.aggregate`);
- ``paper``, which has no word about it, becomes several: the classes are shared out in order,
  evenly over the fewest prompts, and the background words are repeated in each. No class is lost.
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass

from diffground.attention.config import Style
from diffground.backbone.text import TokenRoom
from diffground.config import Compat
from diffground.data.vocabulary import ClassEntry, Vocabulary
from diffground.errors import InputError, shortened
from diffground.phrases.alignment import Span

__all__ = ["ClassEntry", "Phrase", "Prompt", "TokenRoom", "Vocabulary", "compose"]

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Phrase:
    """What a prompt asks for once: a class, or a background word.

    Attributes:
        key: the class's name in the vocabulary, or the background word.
        spans: ``(start, end)`` characters of the prompt, none empty, none overlapping. The phrase's
            tokens are those of all spans together, each with the same weight.
        background: true for a background word, whose map no label is made of.
    """

    key: str
    spans: tuple[Span, ...]
    background: bool = False


@dataclass(frozen=True)
class Prompt:
    """A sentence, and its phrases in the order in which they stand there: classes first."""

    text: str
    phrases: tuple[Phrase, ...]

    @property
    def classes(self) -> tuple[str, ...]:
        """The keys of the phrases that are classes."""
        return tuple(phrase.key for phrase in self.phrases if not phrase.background)


def compose(
    vocabulary: Vocabulary,
    classes: Sequence[str],
    *,
    style: Style,
    background: bool,
    synonyms: bool,
    compat: Compat,
    room: TokenRoom,
) -> list[Prompt]:
    """The prompts that ask for some classes, which keep their order; each is in one prompt.

    Several prompts come of style "separate", and with compat "paper" of a sentence that does not
    fit. The background words are those of the classes (each list in turn, no word twice), without
    words that are a class asked for. Where even one class has no room beside them, "paper" leaves
    the last words out of all prompts, with a warning.

    Args:
        classes: names of the vocabulary; ascending label ids in the public code.
        synonyms: takes the vocabulary's synonyms in place of the class names.
        room: :attr:`FrozenDiffusion.token_room` of the model.

    Raises:
        InputError: there is no class, one is unknown or given twice, one has no token, or with
            compat "paper" one does not fit into a prompt alone.
    """
    if isinstance(classes, str) or not classes:
        reason = f"a list of class names is needed, not {shortened(str(classes))}"
        raise InputError("query", "classes", reason)
    names = [vocabulary.name_of(name) for name in classes]
    if repeated := sorted({name for name in names if names.count(name) > 1}):
        raise InputError("query", "classes", f"given more than once: {', '.join(repeated)}")
    terms = [_class_term(vocabulary, name, synonyms=synonyms, compat=compat) for name in names]
    for term, tokens in zip(terms, room.count([term.text for term in terms]), strict=True):
        if tokens == 0:
            reason = f"the tokenizer has no token for {shortened(term.text)}"
            raise InputError("query", "classes", reason)
    groups = [terms] if style == "composed" else [[term] for term in terms]
    prompts: list[Prompt] = []
    for group in groups:
        keys = [term.key for term in group]
        words = vocabulary.background_words(keys, compat) if background else ()
        # "separate" too leaves out what another class is called: a class is not its background.
        asked = {text[a:b].casefold() for text, a, b in _pieces(terms)}
        kept = [word for word in words if word.casefold() not in asked]
        background_terms = [_Term.word(word) for word in kept]
        if compat == "official":
            prompts.append(_sentence(vocabulary.lead, [*group, *background_terms]))
        else:
            prompts += _fit(vocabulary.lead, group, background_terms, room)
    return prompts


@dataclass(frozen=True)
class _Term:
    """A part of a sentence, before its place there is known; ``spans`` are of ``text``."""

    key: str
    text: str
    spans: tuple[Span, ...]
    background: bool = False

    @classmethod
    def word(cls, word: str) -> _Term:
        return cls(word, word, ((0, len(word)),), True)


def _class_term(vocabulary: Vocabulary, name: str, *, synonyms: bool, compat: Compat) -> _Term:
    """A class as the prompt writes it, and the spans that count."""
    entry = vocabulary.entry(name)
    text = entry.text(synonyms=synonyms, compat=compat)
    spans = ((0, len(text)),) if compat == "official" else _synonym_spans(text)
    return _Term(name, text, spans)


def _synonym_spans(text: str) -> tuple[Span, ...]:
    """The parts of "backpack, bag" between the commas, blanks around them not included."""
    return tuple(match.span() for match in re.finditer(r"[^\s,](?:[^,]*[^\s,])?", text))


def _pieces(terms: Sequence[_Term]) -> list[tuple[str, int, int]]:
    """Every synonym of every term, and its name, as ``(text, start, end)``."""
    found = [(term.text, *span) for term in terms for span in _synonym_spans(term.text)]
    return found + [(term.key, 0, len(term.key)) for term in terms]


def _sentence(lead: str, terms: Sequence[_Term]) -> Prompt:
    """ "<lead> t1, t2, and t3." with the phrases' spans."""
    text, phrases = lead, []
    for place, term in enumerate(terms):
        text += " " if place == 0 else ", and " if place == len(terms) - 1 else ", "
        spans = tuple((start + len(text), end + len(text)) for start, end in term.spans)
        phrases.append(Phrase(term.key, spans, term.background))
        text += term.text
    return Prompt(text + ".", tuple(phrases))


def _fit(
    lead: str, classes: Sequence[_Term], words: Sequence[_Term], room: TokenRoom
) -> list[Prompt]:
    """One sentence if it fits, otherwise the fewest, each with as many words as all can have."""
    whole = _sentence(lead, [*classes, *words])
    if room.count([whole.text])[0] <= room.limit:
        return [whole]
    alone = room.count([_sentence(lead, [term]).text for term in classes])
    for term, tokens in zip(classes, alone, strict=True):
        if tokens > room.limit:
            reason = (
                f"a class is too long: a prompt with nothing else has {tokens} tokens, and the "
                f"text encoder reads {room.limit} beside its start and end. Shorten "
                f"{shortened(term.text)}"
            )
            raise InputError("query", "classes", reason)
    # Sizes of parts add up to at least the sentence's: tokens do not reach across blanks.
    sizes = room.count([f"{term.text}," for term in classes])
    word_sizes = room.count([f"{term.text}," for term in words]) if words else []
    free = room.limit - room.count([f"{lead} and."])[0]
    kept = len(words)
    while kept and max(sizes) + sum(word_sizes[:kept]) > free:
        kept -= 1
    if kept < len(words):
        left_out = ", ".join(term.text for term in words[kept:])
        log.warning("no room in the prompt for the background words %s", left_out)
    budget = free - sum(word_sizes[:kept])
    fewest = len(_groups(sizes, budget))
    # Prompts of like length: a class that is left alone would have nothing to compete with.
    even = next(size for size in range(budget + 1) if len(_groups(sizes, size)) == fewest)
    return [
        _sentence(lead, [*classes[first:last], *words[:kept]])
        for first, last in _groups(sizes, even)
    ]


def _groups(sizes: Sequence[int], budget: int) -> list[tuple[int, int]]:
    """Ranges of consecutive items that together have at most ``budget``, or of a single one."""
    groups: list[tuple[int, int]] = []
    first, total = 0, 0
    for place, size in enumerate(sizes):
        if place > first and total + size > budget:
            groups.append((first, place))
            first, total = place, 0
        total += size
    groups.append((first, len(sizes)))
    return groups
