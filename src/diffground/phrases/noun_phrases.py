"""Which words of a narrative are its phrases: those in brackets, or the noun phrases found in it.

``a [puppy] stands on the [bench]`` marks its phrases. A narrative without brackets goes through the
part-of-speech tagger of TextBlob, whose lexicon is part of its package, so nothing is fetched; a
small grammar of noun phrases reads the tags. Like the benchmark's phrases, those found leave out
the article ("the black bear" gives "black bear"), and stop before a preposition ("a cup of tea"
gives "cup" and "tea").

The tagger knows the words of a lexicon of news text and guesses the others by their endings: it is
far from a parser. It takes verbs for nouns ("people water plants" is one phrase), nouns for verbs,
and knows nothing of what can be seen. So what was found is always shown with the result, and
brackets say it better. The mini world's narratives say little about it: all 757 grounded phrases of
the validation split are found beside 11 others (the "milk" of "a bottle of milk"), but they follow
templates, and their words were known when the rules below were written. On free text it was not
measured.
"""

from __future__ import annotations

import re
from collections.abc import Iterator

from diffground.errors import InputError
from diffground.phrases.alignment import Span

#: Phrases that end in one of these are about the picture or a place in it, or have no shape.
STOP_WORDS = tuple(
    "image images photo photos photograph picture pictures view scene "
    "background foreground front back rear side sides corner "
    "left right top bottom middle center centre edge end part "
    "day night time lot lots kind type few many other others same close "
    "something someone somebody anything everything everyone nothing".split()
)

_WORD = re.compile(r"\b(?:Mr|Mrs|Ms|Dr|St)\.|\w+(?:['’-]\w+)*|[^\w\s]")
_ENDS = frozenset(".!?;:")  # a phrase does not go on behind them
_CLASSES = {  # Penn tags -> the letters of the grammar
    **dict.fromkeys(("DT", "PDT", "PRP$", "WP$"), "D"),
    **dict.fromkeys(("JJ", "JJR", "JJS"), "J"),
    **dict.fromkeys(("VBN", "VBG"), "P"),
    **dict.fromkeys(("VB", "VBP"), "V"),
    **dict.fromkeys(("NN", "NNS", "NNP", "NNPS"), "N"),
    "CD": "C",
    "CC": "&",
}
# A noun phrase: numbers, adjectives or participles ("a dotted ball", but not "is holding balls"),
# a pair of adjectives ("a black and white cat"), nouns. Behind an article (A) a noun must come, so
# what only looks like a verb or an adjective there is one: "a black bear", "an orange".
_PHRASE = re.compile(
    r"A(?P<forced>[JP]*[JV])(?![JPNVC]|&J)|(?P<noun>C*(?:(?<=[ADC])J&J|(?<=[ADCJ])P|(?<=A)V|J)*N+)"
)


def read_narrative(text: str) -> tuple[str, list[Span]]:
    """The narrative without brackets, and the character spans of its phrases in it, in order.

    Phrases are those in brackets; if there is no bracket, the noun phrases that are found.

    Raises:
        InputError: brackets that do not pair, a narrative in which nothing is found, or no tagger.
    """
    if "[" in text or "]" in text:
        return parse_brackets(text)
    spans = find_nouns(text)
    if not spans:
        raise InputError(
            "narrative",
            "phrases",
            f"no noun was found in {text[:60]!r}; mark phrases with brackets: a [puppy] on a bench",
        )
    return text, spans


def parse_brackets(text: str) -> tuple[str, list[Span]]:
    """``"a [puppy] on a [bench]"`` to ``("a puppy on a bench", [(2, 7), (13, 18)])``.

    Blanks at a bracket's inner side stay in the narrative and are no part of the phrase.

    Raises:
        InputError: a bracket inside another, without its partner, or around nothing; the message
            has its position, counted in characters from 1.
    """
    plain: list[str] = []
    spans: list[Span] = []
    opened: tuple[int, int] | None = None  # position in ``text``, and in the narrative
    for at, letter in enumerate(text):
        if letter == "[":
            if opened is not None:
                raise _bracket(text, at, f"'[' inside the one at {opened[0] + 1}")
            opened = at, len(plain)
        elif letter == "]":
            if opened is None:
                raise _bracket(text, at, "']' without a '[' before it")
            inner = "".join(plain[opened[1] :])
            if not re.search(r"\w", inner):
                raise _bracket(text, opened[0], "the bracket holds no word")
            start = opened[1] + len(inner) - len(inner.lstrip())
            spans.append((start, start + len(inner.strip())))
            opened = None
        else:
            plain.append(letter)
    if opened is not None:
        raise _bracket(text, opened[0], "'[' without a ']' behind it")
    return "".join(plain), spans


def find_nouns(text: str) -> list[Span]:
    """Character spans of the noun phrases of an English text, in order.

    Pronouns are none, nor is a phrase that ends in one of :data:`STOP_WORDS`.
    """
    spans = []
    for words, tags in _tagged(text):
        letters = "".join(_letter(text[a:b], t) for (a, b), t in zip(words, tags, strict=True))
        for match in _PHRASE.finditer(letters):
            first, last = match.span("noun" if match["noun"] else "forced")
            head = slice(*words[last - 1])
            if text[head].lower() not in STOP_WORDS:
                spans.append((words[first][0], words[last - 1][1]))
    return spans


def _letter(word: str, tag: str) -> str:
    """The grammar's letter of a word: A for articles, "." for what no phrase has."""
    if word.lower() in {"a", "an", "the"}:
        return "A"
    return _CLASSES.get(tag.split("-", maxsplit=1)[0], ".") if word[0].isalnum() else "."


def _tagged(text: str) -> Iterator[tuple[list[Span], list[str]]]:
    """Each sentence's words, by character span, and their Penn tags."""
    from textblob.en import tag

    sentence: list[Span] = []
    words = [match.span() for match in _WORD.finditer(text)]
    for index, (start, end) in enumerate(words):
        sentence.append((start, end))
        if text[start:end] in _ENDS or index + 1 == len(words):
            # The tagger gets words, so that its answer has one tag for each; to it a slash is a
            # separator and an ampersand begins the name of one. Its guess at "t-shirt" is an
            # adjective: the last part tells.
            tokens = [re.sub(r"[/&|]", ",", text[a:b]).split("-")[-1] or "-" for a, b in sentence]
            tags = [name for _, name in tag(" ".join(tokens), tokenize=False)]
            assert len(tags) == len(sentence), (tokens, tags)
            yield sentence, tags
            sentence = []


def _bracket(text: str, at: int, reason: str) -> InputError:
    excerpt = text[max(0, at - 15) : at + 15]
    return InputError("narrative", "brackets", f"character {at + 1}: {reason}: ... {excerpt} ...")
