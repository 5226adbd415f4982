"""Chunks find their place in the caption, or an error says which does not."""

import random

import pytest

from diffground.phrases.chunks import align_chunks


def placed(caption, chunks):
    """The caption's text under each chunk, None for chunks without a word."""
    return [span and caption[slice(*span)] for span in align_chunks(caption, chunks)]


def test_released_example():
    caption = "In this picture we can able to see a black bear on this tree."
    chunks = ["in this", "picture", "we can able to see a", "black bear", "on this", "tree", "."]
    assert placed(caption, chunks) == [
        "In this", "picture", "we can able to see a", "black bear", "on this", "tree", None,
    ]  # fmt: skip


@pytest.mark.parametrize(
    ("caption", "chunks", "expected"),
    [
        ("He doesn't run.", ["he", "does n't", "run", "."], ["He", "doesn't", "run", None]),
        ("He can't run.", ["he", "ca", "n't run ."], ["He", "ca", "n't run"]),
        ("the man\u2019s hat", ["the man", "'s hat"], ["the man", "s hat"]),
        ("a red T-Shirt", ["a", "red t - shirt"], ["a", "red T-Shirt"]),
        ("two  cats,and a dog", ["two cats", ", and", "a dog"], ["two  cats", "and", "a dog"]),
        ("the \u201ccaf\u00e9\u201d door", ['the "cafe"', "door"], ["the \u201ccaf\u00e9", "door"]),
        ("one cafe\u0301 here", ["one", "caf\u00e9", "here"], ["one", "cafe\u0301", "here"]),
        ("die Stra\u00dfe da", ["die", "strasse", "da"], ["die", "Stra\u00dfe", "da"]),
        ("12 men & 3 dogs", ["12 men", "&", "3 dogs"], ["12 men", None, "3 dogs"]),
    ],
)
def test_blanks_signs_case_and_accents_do_not_matter(caption, chunks, expected):
    assert placed(caption, chunks) == expected


def test_a_repeated_word_goes_by_order_not_by_first_occurrence():
    caption = "a tree beside a tree and a tree"
    spans = align_chunks(caption, ["a", "tree", "beside a", "tree", "and a", "tree"])
    assert [span for span in spans if caption[slice(*span)] == "tree"] == [
        (2, 6),
        (16, 20),
        (27, 31),
    ]


def test_a_word_is_not_found_inside_another():
    assert align_chunks("an apple and a pear", ["a", "pear"]) == [(13, 14), (15, 19)]


def test_words_that_no_chunk_has_are_skipped_only_without_guessing():
    assert placed("I see a cat on a mat", ["cat", "on a mat"]) == ["cat", "on a mat"]
    with pytest.raises(ValueError, match="chunk 0 'tree' occurs 2 times"):
        align_chunks("a tree near a tree", ["tree"])


@pytest.mark.parametrize("chunks", [["a", "dog"], ["a cat", "sat", "sat"], ["cat", "a"]])
def test_a_chunk_that_is_not_there_is_an_error(chunks):
    with pytest.raises(ValueError, match="is not in"):
        align_chunks("a cat sat", chunks)


def test_random_captions_are_recovered_whatever_their_tokenisation():
    """However words are grouped, cased and spaced, each chunk covers the words it was made of."""
    rng = random.Random(0)
    words = [
        "man",
        "a",
        "an",
        "the",
        "don't",
        "t-shirt",
        "man's",
        "tree",
        "trees",
        "caf\u00e9",
        "3",
    ]
    for _ in range(300):
        picked = [rng.choice(words) for _ in range(rng.randint(1, 25))]
        caption, spans = "", []
        for word in picked:
            caption += rng.choice([" ", "  ", ", "]) if caption else ""
            spans.append((len(caption), len(caption) + len(word)))
            caption += word.capitalize() if rng.random() < 0.2 else word
        caption += rng.choice(["", ".", " ."])
        chunks, expected, at = [], [], 0
        while at < len(picked):
            length = rng.randint(1, 4)
            group = picked[at : at + length]
            text = " ".join(group)
            text = rng.choice([text, text.replace("n't", " n't"), text.replace("-", " - ")])
            chunks.append(text)
            expected.append((spans[at][0], spans[at + len(group) - 1][1]))
            at += length
        assert align_chunks(caption, chunks) == expected, (caption, chunks)
