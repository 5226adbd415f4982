"""Long captions: where they are cut, and what each option makes of a narrative of 230 words."""

from __future__ import annotations

from functools import cache
from itertools import pairwise
from pathlib import Path
from typing import get_args

import pytest
import tiny_png
import torch

from diffground.backbone.captions import LongCaptions, check_caption, encode_captions, lost_phrases
from diffground.backbone.frozen import FrozenDiffusion
from diffground.errors import InputError
from diffground.phrases.long_captions import cut_caption

ROOT = Path(__file__).resolve().parents[2]
OPTIONS = get_args(LongCaptions)
ROOM = 75
THINGS = ["house", "boat", "kite", "car", "vase", "lamp", "cat", "bird", "tree", "bottle"]
COLOURS = ["purple", "red", "green", "yellow", "blue"]


@cache
def backbone(name: str) -> FrozenDiffusion:
    """The mini model, a token for each of our words, or the tiny one, a token for each letter."""
    if name == "tiny":
        return tiny_png.backbone()
    return FrozenDiffusion.from_pretrained(ROOT / "data/06_models/mini-sd")


def narrative() -> tuple[str, list[tuple[int, int]]]:
    """Ten sentences of 23 words and 24 tokens, three phrases in each, as in the paper's limits."""
    caption, spans = "", []
    for number, thing in enumerate(THINGS):
        parts = [
            ("In this image we can see the", None),
            (f"{COLOURS[number % 5]} {thing}", True),
            ("on the", None),
            ("grass", True),
            ("and in there we see", None),
            (f"two {COLOURS[number % 4]} {THINGS[number - 1]}s", True),
            ("in the background", None),
        ]
        for text, phrase in parts:
            caption += " " if caption else ""
            if phrase:
                spans.append((len(caption), len(caption) + len(text)))
            caption += text
        caption += "."
    assert len(caption.split()) == 230 and len(spans) == 30
    return caption, spans


def by_hand(model, windows, caption, spans):
    """Each phrase's mean over the windows that hold it; windows are encoded one by one."""
    rows = []
    for start, end in spans:
        found = []
        for first, last in windows:
            if first <= start and end <= last:
                encoding = model.encode_prompts([caption[first:last]])
                tokens = [
                    index
                    for index, (a, b) in enumerate(encoding.offsets[0])
                    if a < end - first and b > start - first
                ]
                found.append(encoding.embeddings[0, tokens].mean(0))
        rows.append(torch.stack(found).mean(0) if found else torch.zeros(model.context_dim))
    return torch.stack(rows)


def count(model):
    return lambda texts: [
        len(model.tokenizers[0](text, add_special_tokens=False, verbose=False).input_ids)
        for text in texts
    ]


def words(texts):
    return [len(text.split()) for text in texts]


# --- where captions are cut -----------------------------------------------------------------------


def pieces(caption, phrases, room, option, counted=words):
    return [caption[a:b].strip() for a, b in cut_caption(caption, phrases, counted, room, option)]


def test_sentences_share_a_window_while_they_fit():
    caption = "One two. Three! Four five six seven? Eight"
    assert pieces(caption, [(0, 3)], 4, "per_sentence") == [
        "One two. Three!",
        "Four five six seven?",
        "Eight",
    ]
    # what does not fit alone is cut between words, and its rest shares a window with what follows
    assert pieces("a b c d e f. g h. i", [], 4, "per_sentence") == ["a b c d", "e f. g h.", "i"]


def test_sliding_windows_are_full_and_half_a_window_apart():
    caption = "a b c d e f g h i j k"
    assert pieces(caption, [], 4, "sliding") == [
        "a b c d", "c d e f", "e f g h", "g h i j", "h i j k",
    ]  # fmt: skip
    assert pieces("a b c d e", [], 4, "sliding") == ["a b c d", "b c d e"]
    assert pieces(caption, [], 4, "truncate") == ["a b c d"]


@pytest.mark.parametrize("option", OPTIONS)
def test_a_phrase_at_a_border_is_not_cut(option):
    caption = "a b c the long phrase d e f g"
    span = (6, 6 + len("the long phrase"))
    found = pieces(caption, [span], 4, option)
    assert found[0] == "a b c"  # the border at four words is in the phrase
    whole = [piece for piece in found if "the long phrase" in piece]
    assert bool(whole) == (option != "truncate")
    assert all("phrase" not in piece for piece in found if piece not in whole)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_phrase_across_sentences_is_not_cut(option):
    phrase = "Mr. Smith's dog"
    caption = f"a b c. {phrase} runs. It barks. d e f"
    start = caption.index(phrase)
    found = pieces(caption, [(start, start + len(phrase))], 5, option)
    assert found[0] == "a b c."
    assert any(phrase in piece for piece in found) == (option != "truncate")
    assert not any(piece.endswith("Mr.") or piece.startswith("Smith") for piece in found)


def test_every_phrase_of_any_length_is_in_a_sliding_window():
    sizes = [3, 70, 8, 75, 1, 40, 40, 74, 2, 2, 60]
    caption = " ".join("-".join("w" * size) for size in sizes)

    def letters(texts):
        return [text.count("w") for text in texts]

    spans, at = [], 0
    for word in caption.split():
        spans.append((at, at + len(word)))
        at += len(word) + 1
    found = cut_caption(caption, spans, letters, ROOM, "sliding")
    assert all(letters([caption[a:b]])[0] <= ROOM for a, b in found)
    assert all(any(a <= s and e <= b for a, b in found) for s, e in spans)
    assert all(a[0] < b[0] <= a[1] < b[1] for a, b in pairwise(found))


@pytest.mark.parametrize("option", OPTIONS)
def test_a_phrase_too_long_alone_is_an_error(option):
    caption = "a cat sits beside the long phrase"
    span = (caption.index("the"), len(caption))
    with pytest.raises(InputError, match="'the long phrase' is too long alone: 3 tokens"):
        cut_caption(caption, [span], words, 2, option)


# --- the narrative of 230 words -------------------------------------------------------------------


@pytest.mark.parametrize("name", ["mini", "tiny"])
@pytest.mark.parametrize("option", OPTIONS)
def test_a_narrative_of_230_words(name, option):
    model = backbone(name)
    caption, spans = narrative()
    check_caption(model, caption, spans, option)
    embeddings, valid, pooled = encode_captions(model, [caption], [spans], option)
    lost = lost_phrases(model, caption, spans, option)
    assert embeddings.shape == (1, 30, model.context_dim) and pooled is None
    assert [index for index in range(30) if not valid[0, index]] == lost
    assert bool(lost) == (option == "truncate")
    windows = cut_caption(caption, spans, count(model), ROOM, option)
    assert max(count(model)([caption[a:b] for a, b in windows])) <= ROOM
    expected = by_hand(model, windows, caption, spans)
    torch.testing.assert_close(embeddings[0], expected, rtol=1e-4, atol=1e-5)
    assert not embeddings[0, lost].any() and embeddings[0, valid[0]].any(-1).all()


def test_the_options_by_the_token():
    """24 tokens a sentence: three sentences fit 75, and truncation keeps the fourth's first 3."""
    model = backbone("mini")
    caption, spans = narrative()
    ends = [0, *(index + 2 for index, letter in enumerate(caption) if letter == ".")]
    groups = [(ends[i], ends[min(i + 3, 10)]) for i in range(0, 10, 3)]
    embeddings, _, _ = encode_captions(model, [caption], [spans], "per_sentence")
    expected = by_hand(model, groups, caption, spans)
    torch.testing.assert_close(embeddings[0], expected, rtol=1e-4, atol=1e-5)

    assert lost_phrases(model, caption, spans, "truncate") == list(range(9, 30))
    embeddings, _, _ = encode_captions(model, [caption], [spans], "truncate")
    cut = model.encode_prompts([caption], overflow="truncate")  # by tokens
    direct, _ = model.encode_phrases(cut, [spans[:9]])
    torch.testing.assert_close(embeddings[:, :9], direct, rtol=1e-4, atol=1e-5)

    at = [match for match, letter in enumerate(caption) if letter == " "]
    windows = cut_caption(caption, spans, count(model), ROOM, "sliding")
    sizes = count(model)([caption[:a] for a, _ in windows])
    assert all(38 <= b - a <= 42 for a, b in pairwise(sizes[:-1]))  # half of 75, and words whole
    held = [sum(a <= s and e <= b for a, b in windows) for s, e in spans]
    assert min(held) == 1 and max(held) <= 3 and sum(held) > 45
    assert all(a == 0 or a - 1 in at for a, _ in windows)


@pytest.mark.parametrize("option", OPTIONS)
def test_a_sentence_longer_than_the_window(option):
    model = backbone("mini")
    caption = " and ".join(f"a {COLOURS[n % 5]} {THINGS[n % 10]}" for n in range(30)) + "."
    spans, at = [], 0
    for part in caption[:-1].split(" and "):
        spans.append((at + 2, at + len(part)))
        at += len(part) + 5
    assert count(model)([caption])[0] == 120
    _, valid, _ = encode_captions(model, [caption], [spans], option)
    assert int(valid.sum()) == (19 if option == "truncate" else 30)  # 75 tokens: 18 x 4 and 3


def test_a_caption_that_fits_is_the_same_under_every_option():
    model = backbone("mini")
    caption = "a red house. " * 18 + "a red car"  # 18 x 4 and 3 tokens, and two more
    spans = [(2, 11), (len(caption) - 7, len(caption))]
    assert count(model)([caption])[0] == ROOM
    whole, _ = model.encode_phrases(model.encode_prompts([caption]), [spans])
    for option in OPTIONS:
        embeddings, valid, _ = encode_captions(model, [caption], [spans], option)
        assert torch.equal(embeddings, whole) and valid.all()
    longer = caption + " house"
    rows = [encode_captions(model, [longer], [spans], option)[0] for option in OPTIONS]
    assert not torch.allclose(rows[0][0, 1], rows[1][0, 1], atol=1e-4)  # less context in a sentence


@pytest.mark.parametrize("option", OPTIONS)
def test_a_mixed_batch_is_its_captions_one_by_one(option):
    model = backbone("mini")
    caption, spans = narrative()
    captions = ["a cat", caption, caption[: spans[4][1]]]
    phrases = [[(2, 5)], spans, spans[3:5]]
    together, valid, _ = encode_captions(model, captions, phrases, option)
    for row, (one, its) in enumerate(zip(captions, phrases, strict=True)):
        alone, real, _ = encode_captions(model, [one], [its], option)
        torch.testing.assert_close(together[row, : len(its)], alone[0], rtol=1e-4, atol=1e-5)
        assert valid[row, : len(its)].equal(real[0]) and not valid[row, len(its) :].any()
        assert not together[row, len(its) :].any()


def test_truncation_may_lose_every_phrase():
    model = backbone("mini")
    caption, spans = narrative()
    check_caption(model, caption, spans[-2:], "truncate")
    embeddings, valid, _ = encode_captions(model, [caption], [spans[-2:]], "truncate")
    assert embeddings.shape == (1, 2, model.context_dim)
    assert not embeddings.any() and not valid.any()
    assert lost_phrases(model, caption, spans[-2:], "truncate") == [0, 1]


# --- errors ---------------------------------------------------------------------------------------


@pytest.mark.parametrize("option", OPTIONS)
def test_a_caption_can_be_checked_without_encoding_it(option):
    model = backbone("tiny")
    check_caption(model, "a cat", [(2, 5)], option)
    wrong = [("a cat", []), ("w" * 90, [(0, 90)]), ("a cat", [(1, 2)]), ("a cat", [(2, 9)])]
    for caption, spans in [*wrong, ("a " * 50, [(99, 101)])]:
        with pytest.raises(InputError) as checked:
            check_caption(model, caption, spans, option)
        with pytest.raises(InputError) as encoded:
            encode_captions(model, [caption], [spans], option)
        assert str(checked.value) == str(encoded.value)
