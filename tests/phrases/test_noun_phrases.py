"""Phrases marked with brackets, and phrases that a tagger finds."""

from __future__ import annotations

import pytest

from diffground.errors import InputError
from diffground.phrases.noun_phrases import find_nouns, parse_brackets, read_narrative


def found(text):
    return [text[a:b] for a, b in find_nouns(text)]


def test_brackets_mark_phrases():
    text, spans = parse_brackets("a [puppy] stands on the [ wooden bench ]. [Sky]")
    assert text == "a puppy stands on the  wooden bench . Sky"
    assert [text[a:b] for a, b in spans] == ["puppy", "wooden bench", "Sky"]
    assert parse_brackets("[puppy]") == ("puppy", [(0, 5)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("a [puppy on a [bench]]", r"character 15: '\[' inside the one at 3"),
        ("a puppy] on a bench", r"character 8: '\]' without"),
        ("a [puppy] on a [bench", r"character 16: '\[' without a '\]'"),
        ("a [] puppy", "character 3: the bracket holds no word"),
        ("a [ . ] puppy", "character 3: the bracket holds no word"),
    ],
)
def test_wrong_brackets_are_named_with_their_place(text, message):
    with pytest.raises(InputError, match=message):
        parse_brackets(text)


def test_noun_phrases_are_found():
    assert found("In this picture we can able to see a black bear on these trees.") == [
        "black bear",
        "trees",
    ]
    assert found("A man is riding a horse. He holds a dotted t-shirt; the man's hat is red.") == [
        "man", "horse", "dotted t-shirt", "man's hat",
    ]  # fmt: skip
    text = "Mr. Smith's dog, two small boxes/an orange and a black and white cat with 3 cups of tea"
    assert found(text) == [
        "Mr. Smith's dog", "two small boxes", "orange", "black and white cat", "3 cups", "tea",
    ]  # fmt: skip
    assert found("It is there & they see us.") == []


def test_words_that_cannot_be_grounded_are_left_out():
    text = "In the background there is sky, on the left side a wall."
    assert found(text) == ["sky", "wall"]


def test_nothing_to_find_is_an_error():
    assert read_narrative("a puppy")[1] == [(2, 7)]
    assert read_narrative("a puppy on a [bench]")[1] == [(13, 18)]  # brackets alone count
    for text in ("It is there.", ""):
        with pytest.raises(InputError, match="no noun was found"):
            read_narrative(text)
