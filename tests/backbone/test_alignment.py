"""Phrases to tokens, with the real CLIP tokenizer class on a tiny vocabulary."""

import re
import unicodedata

import pytest

from diffground.backbone.frozen import FrozenDiffusion
from diffground.errors import InputError
from diffground.phrases.alignment import token_indices

PROMPTS = [
    "A photo including a dog, a red cup and the table.",
    "The DOG's bowl -- isn't it (really) next to a cupcake?!",
    "  New   York,\n a\ttraffic-light... #1 & 2nd",
    "ein Café in Łódź, naïve Straße 東京 🐶 ﬁsh I\u0307 cafe\u0301",
    "İstanbul, a dog",
]


def offsets_of(model: FrozenDiffusion, prompt: str) -> list[tuple[int, int]]:
    return model.encode_prompts([prompt], overflow="truncate").offsets[0]


@pytest.mark.parametrize("prompt", PROMPTS)
def test_offsets_are_exact(prompt: str, sd1: FrozenDiffusion) -> None:
    """Tokens cover every visible character once, in order, and say what stands there."""
    tokenizer = sd1.tokenizers[0]
    batch = tokenizer(prompt, return_offsets_mapping=True)
    spans = [span for span in batch.offset_mapping if span != (0, 0)]
    covered = [False] * len(prompt)
    for start, end in spans:
        covered[start:end] = [True] * (end - start)
    for seen, char in zip(covered, prompt, strict=True):
        assert seen or char.isspace() or unicodedata.combining(char)
    assert spans == sorted(spans)
    texts = tokenizer.convert_ids_to_tokens(batch.input_ids)
    for text, (start, end) in zip(texts[1:-1], batch.offset_mapping[1:-1], strict=True):
        plain = text.removesuffix("</w>")
        if plain.isascii() and prompt[start:end].isascii():
            assert plain == prompt[start:end].lower()


@pytest.mark.parametrize(
    ("prompt", "phrase"),
    [
        (PROMPTS[0], "dog"),
        (PROMPTS[0], "red cup"),
        (PROMPTS[0], "the table"),
        (PROMPTS[1], "The dog's bowl"),
        (PROMPTS[1], "(really)"),
        (PROMPTS[1], "cupcake"),
        (PROMPTS[2], "new york"),
        (PROMPTS[2], "traffic-light"),
        (PROMPTS[3], "café"),
        (PROMPTS[3], "東京"),
        (PROMPTS[3], "🐶"),
        (PROMPTS[3], "cafe\u0301"),
        (PROMPTS[4], "dog"),
    ],
)
def test_phrase_tokens_spell_the_phrase(prompt: str, phrase: str, sd1: FrozenDiffusion) -> None:
    tokenizer = sd1.tokenizers[0]
    words = r"\s+".join(map(re.escape, phrase.split()))
    span = re.search(rf"(?<!\w){words}(?!\w)", prompt, re.IGNORECASE).span()
    ids = tokenizer(prompt).input_ids
    found = token_indices(
        prompt, tokenizer(prompt, return_offsets_mapping=True).offset_mapping, span
    )
    assert found == list(range(found[0], found[-1] + 1))
    alone = tokenizer(phrase).input_ids[1:-1]
    assert [ids[i] for i in found] == alone


def test_spans_outside_of_the_prompt(sd1: FrozenDiffusion) -> None:
    prompt = "a dog"
    for span in [(0, 6), (3, 3), (-1, 2), (1, 2)]:
        with pytest.raises(InputError, match="holds no text"):
            token_indices(prompt, offsets_of(sd1, prompt), span)


def test_truncated_phrase(sd1: FrozenDiffusion) -> None:
    prompt = "a dog, " * 20 + "a table"
    offsets = offsets_of(sd1, prompt)
    assert token_indices(prompt, offsets, (2, 5)) == [2]
    with pytest.raises(InputError, match="'table' lost tokens"):
        token_indices(prompt, offsets, (len(prompt) - 5, len(prompt)))
