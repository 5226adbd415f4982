"""Prompts of classes: wording, spans and tokens, background words, and sentences that are split."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from functools import cache
from pathlib import Path

import pytest
import tiny_png
from transformers import CLIPTokenizer

from diffground.attention.queries import Prompt, TokenRoom, Vocabulary, compose
from diffground.errors import InputError
from diffground.phrases.alignment import token_indices
from diffground.world.pictures import CLASS_NAMES
from diffground.world.vocabulary import ABOVE, BELOW, BOUND, BY_NAME, SETTINGS

LARGE = TokenRoom(lambda texts: [len(text.split()) for text in texts], 1000)  # words, no limit
VOC, COCO, MINI = (Vocabulary.load(name) for name in ("voc", "coco", "mini"))


def words(
    vocabulary: Vocabulary,
    *classes: str,
    room: TokenRoom = LARGE,
    style: str = "composed",
    background: bool = True,
    synonyms: bool = True,
    compat: str = "official",
) -> list[Prompt]:
    return compose(
        vocabulary,
        classes,
        style=style,
        background=background,
        synonyms=synonyms,
        compat=compat,
        room=room,
    )


def parts(prompt: Prompt) -> dict[str, list[str]]:
    """The text under each phrase's spans."""
    return {p.key: [prompt.text[a:b] for a, b in p.spans] for p in prompt.phrases}


@cache
def mini_tokenizer() -> CLIPTokenizer:
    folder = Path(__file__).parents[2] / "data/06_models/mini-sd/tokenizer"
    return CLIPTokenizer.from_pretrained(folder, local_files_only=True)


# The sentences.


def test_composed_as_the_public_code_writes_it() -> None:
    (prompt,) = words(VOC, "boat", "person")
    assert prompt.text == (
        "a photo including boat, person with clothes, river, sea, lake, water, mountain, tree, "
        "railway, railroad, track, stone, and rocks."
    )
    assert prompt.classes == ("boat", "person")
    assert [phrase.background for phrase in prompt.phrases] == [False] * 2 + [True] * 11
    assert all(texts == [key] for key, texts in parts(prompt).items() if key != "person")
    assert parts(prompt)["person"] == ["person with clothes"]


def test_the_paper_has_one_background_list() -> None:
    (prompt,) = words(VOC, "train", compat="paper")
    assert prompt.text == (
        "a photo including train, tree, river, sea, lake, water, railway, railroad, track, stone, "
        "and rocks."
    )
    (official,) = words(VOC, "train")
    assert official.text == "a photo including train, railway, railroad, and track."


def test_example_of_the_paper() -> None:
    (prompt,) = words(VOC, "bottle", "chair", "sofa", background=False, synonyms=False)
    assert prompt.text == "a photo including bottle, chair, and sofa."
    (single,) = words(VOC, "tvmonitor", background=False, synonyms=False)
    assert single.text == "a photo including tv monitor."


def test_separate_has_each_class_with_its_own_background() -> None:
    boat, cow = words(VOC, "boat", "cow", style="separate")
    assert boat.text == "a photo including boat, river, sea, lake, water, and mountain."
    assert cow.text == "a photo including cow, grass, stone, and rocks."
    assert boat.classes + cow.classes == ("boat", "cow")


def test_spans_of_synonyms() -> None:
    """The public code averages the comma's token too, the paper's text the words'."""
    (official,) = words(COCO, "backpack", background=False)
    (paper,) = words(COCO, "backpack", background=False, compat="paper")
    assert official.text == paper.text == "a photo including backpack, bag."
    assert parts(official)["backpack"] == ["backpack, bag"]
    assert parts(paper)["backpack"] == ["backpack", "bag"]
    tokenizer = mini_tokenizer()
    offsets = tokenizer(paper.text, return_offsets_mapping=True).offset_mapping
    tokens = [
        [i for span in p.phrases[0].spans for i in token_indices(p.text, offsets, span)]
        for p in (official, paper)
    ]
    (comma,) = set(tokens[0]) - set(tokens[1])
    assert tokenizer(paper.text).input_ids[comma] == tokenizer.convert_tokens_to_ids(",</w>")
    # The public code counts the tokens of the class alone; the first is behind the lead.
    alone = tokenizer("backpack, bag", add_special_tokens=False).input_ids
    lead = tokenizer("a photo including", add_special_tokens=False).input_ids
    assert tokens[0] == list(range(1 + len(lead), 1 + len(lead) + len(alone)))


def test_the_slip_of_the_public_code_is_its_own() -> None:
    texts = {
        compat: words(COCO, "snowboard", background=False, compat=compat)[0].text
        for compat in ("official", "paper")
    }
    assert texts == {
        "official": "a photo including sknowboard.",
        "paper": "a photo including snowboard.",
    }


def test_a_class_is_not_its_own_background() -> None:
    vocabulary = Vocabulary.from_names(["River", "boat"], background=["river", "sea"])
    (prompt,) = words(vocabulary, "River", "boat")
    assert prompt.text == "a photo including River, boat, and sea."
    assert [p.text for p in words(vocabulary, "boat", style="separate")] == [
        "a photo including boat, river, and sea."
    ]
    assert "river" not in words(vocabulary, "River", "boat", style="separate")[1].text


# The sentences that do not fit.


def test_a_model_counts_as_its_tokenizers_do() -> None:
    model = tiny_png.backbone()  # one token per letter
    room = model.token_room
    assert room.limit == 75 and room.count(["", "cat", "a cat."]) == [0, 3, 5]


def test_an_overflowing_sentence_is_split() -> None:
    model = tiny_png.backbone()
    room = model.token_room
    vocabulary = Vocabulary.from_names(
        ["aeroplane", "bicycle", "bottle", "chair", "motorbike", "sheep", "sofa"],
        background=["sky", "grass"],
    )
    prompts = words(vocabulary, *vocabulary.names, room=room, compat="paper")
    assert [name for prompt in prompts for name in prompt.classes] == list(vocabulary.names)
    assert [prompt.classes for prompt in prompts] == [
        ("aeroplane", "bicycle", "bottle"),
        ("chair", "motorbike", "sheep", "sofa"),
    ]  # the first could hold four: shared out evenly instead
    for prompt in prompts:
        assert prompt.text.endswith(", sky, and grass.")
        assert all(texts == [key] for key, texts in parts(prompt).items())
    encoding = model.encode_prompts([prompt.text for prompt in prompts])  # refuses what overflows
    assert encoding.mask.sum(1).max() <= 77
    for item, prompt in enumerate(prompts):
        for phrase in prompt.phrases:
            (span,) = phrase.spans
            assert len(encoding.token_indices(item, span)) == len(phrase.key)


def test_official_writes_one_sentence_however_long() -> None:
    (prompt,) = words(COCO, *COCO.names, room=TokenRoom(LARGE.count, 75))
    assert prompt.classes == COCO.names and prompt.text.endswith("stone, and rocks.")


def test_all_of_coco_in_the_mini_tokenizer() -> None:
    """80 classes at once, the longest sentence there can be."""
    tokenizer = mini_tokenizer()

    def count(texts: list[str]) -> list[int]:
        return [len(ids) for ids in tokenizer(texts, add_special_tokens=False).input_ids]

    for limit in (75, 110):
        prompts = words(COCO, *COCO.names, room=TokenRoom(count, limit), compat="paper")
        assert [name for prompt in prompts for name in prompt.classes] == list(COCO.names)
        sizes = count([prompt.text for prompt in prompts])
        assert max(sizes) <= limit and len(sizes) < 80


def test_background_words_give_way_to_classes(caplog: pytest.LogCaptureFixture) -> None:
    room = tiny_png.backbone().token_room
    vocabulary = Vocabulary.from_names(["c" * 50, "cat"], background=["sky", "g" * 12, "sea"])
    with caplog.at_level(logging.WARNING):
        long, short = words(vocabulary, *vocabulary.names, room=room, compat="paper")
    assert long.text == f"a photo including {'c' * 50}, and sky."
    assert short.text == "a photo including cat, and sky."
    assert f"{'g' * 12}, sea" in caplog.text


def test_one_class_is_never_cut() -> None:
    room = tiny_png.backbone().token_room
    fits = "c" * (75 - len("aphotoincluding."))
    vocabulary = Vocabulary.from_names([fits, fits + "c", "cat"])
    prompts = words(vocabulary, "cat", fits, room=room, compat="paper")
    assert prompts[1].text == f"a photo including {fits}."
    for style in ("composed", "separate"):
        with pytest.raises(InputError, match=r"too long: .* has 76 tokens, .* reads 75"):
            words(vocabulary, "cat", fits + "c", room=room, style=style, compat="paper")


# Bad input.


@pytest.mark.parametrize(
    ("classes", "message"),
    [
        ([], "a list of class names is needed"),
        ("boat", "a list of class names is needed, not 'boat'"),
        (["boat", "boat"], "given more than once: boat"),
        (["potted plant", "pottedplant"], "given more than once: pottedplant"),
        (["tvmonitr"], "no class 'tvmonitr'; did you mean tvmonitor.? There are tvmonitor, aeropl"),
        (["zebra"], "no class 'zebra'. There are aeroplane, .* and 8 more. .*without a vocabulary"),
    ],
)
def test_bad_classes(classes: list[str], message: str) -> None:
    with pytest.raises(InputError, match=message):
        compose(
            VOC,
            classes,
            style="composed",
            background=True,
            synonyms=True,
            compat="paper",
            room=LARGE,
        )


def test_a_class_without_tokens() -> None:
    """CLIP's tokenizers have a token for every byte; others drop what they do not know."""
    latin = TokenRoom(
        lambda texts: [len(t.encode("ascii", "ignore").split()) for t in texts], limit=75
    )
    with pytest.raises(InputError, match="has no token for '猫'"):
        words(Vocabulary.from_names(["cat", "猫"]), "cat", "猫", room=latin)


def test_reasons_come_before_long_texts() -> None:
    text = "an animal or a thing " * 50 + "that there is"
    short = TokenRoom(LARGE.count, 75)
    asked: list[Callable[[], object]] = [
        lambda: words(Vocabulary.from_names([text]), text, room=short, compat="paper"),
        lambda: words(VOC, text),
        lambda: compose(
            VOC, text, style="composed", background=True, synonyms=True, compat="paper", room=LARGE
        ),
        lambda: Vocabulary.from_names(text),
        lambda: Vocabulary.from_names([text + ",,"]),
        lambda: Vocabulary.from_names([f"{text} {i}" for i in range(300)]),
        lambda: Vocabulary.from_names(["cat", text, text]),
    ]
    for ask in asked:
        with pytest.raises(InputError) as caught:
            ask()
        assert 20 < len(caught.value.reason) < 400
        assert not caught.value.reason.startswith(("'an", "an"))


@pytest.mark.parametrize(
    ("content", "message"),
    [
        ('["cat", "Background"]', "'Background' is what results call .* rename it"),
        ('["cat", "Cat"]', "names that occur more than once: cat"),
        ('["cat", " "]', "at least 1 character"),
        ('["cat", 3]', "valid string"),
        ("[]", "at least 1 item"),
        ('"cat"', "an object or a list of names is expected"),
        ("{", "JSON"),
        ('{"classes": {"1": {"name": "cat"}, "1": {"name": "dog"}}}', "more than once: 1"),
        ('{"classes": {"0": {"name": "cat"}}}', "greater than or equal to 1"),
        ('{"classes": {"255": {"name": "cat"}}}', "less than or equal to 254"),
        ('{"classes": {"1": {"name": "cat", "synonym": "kitten"}}}', "Extra inputs"),
        ('{"classes": {"1": {"name": "cat", "synonyms": "kitten,,puss"}}}', "beside a comma"),
        ('{"classes": {"1": {"name": "a", "prompt": "b"}, "2": {"name": "b"}}}', "prompts that"),
        ('{"classes": {"1": {"name": "cat"}}, "background": ["sky", "sky"]}', "words that"),
    ],
)
def test_bad_vocabularies(tmp_path: Path, content: str, message: str) -> None:
    path = tmp_path / "words.json"
    path.write_text(content)
    with pytest.raises(InputError, match=message) as caught:
        Vocabulary.load(path)
    assert caught.value.file == str(path)


def test_a_missing_vocabulary_names_the_shipped_ones() -> None:
    with pytest.raises(InputError, match="shipped ones are coco, mini, voc"):
        Vocabulary.load("pascal")


# The tables.


def test_own_vocabulary(tmp_path: Path) -> None:
    path = tmp_path / "words.json"
    path.write_text(json.dumps({"classes": {"7": {"name": "cat"}, "3": {"name": "sofa"}}}))
    vocabulary = Vocabulary.load(path)
    assert vocabulary.names == ("sofa", "cat") and vocabulary.index("cat") == 7
    assert vocabulary.names_of([7, 3, 7]) == ("sofa", "cat")
    path.write_text('["cat", "sofa"]')
    assert Vocabulary.load(path) == Vocabulary.from_names(["cat", "sofa"])
    with pytest.raises(InputError, match=r"no class has the label \[9\]"):
        vocabulary.names_of([3, 9])


def test_voc_and_coco_tables() -> None:
    assert list(VOC.classes) == list(range(1, 21)) and list(COCO.classes) == list(range(1, 81))
    assert VOC.background == COCO.background and len(VOC.background) == 10
    assert (VOC.index("person"), VOC.index("tvmonitor")) == (15, 20)
    assert (COCO.index("person"), COCO.index("couch"), COCO.index("toothbrush")) == (1, 58, 80)
    texts = [entry.text(synonyms=True, compat="official") for entry in VOC.classes.values()]
    assert ", ".join(texts) == (
        "aeroplane, bicycle, bird avian, boat, bottle, bus, car, cat, chair seat, cow, "
        "dining table, dog, horse, motorbike, person with clothes, potted plant, sheep, sofa, "
        "train, tv monitor screen"
    )
    coco = [entry.text(synonyms=True, compat="official") for entry in COCO.classes.values()]
    assert {"umbrella, parasol", "handbag, purse", "necktie", "sknowboard", "glove"} <= set(coco)
    assert {"dessert spoon", "remote control", "hairdrier, blowdrier", "aeroplane"} <= set(coco)


def test_mini_table_agrees_with_the_world() -> None:
    assert ("background", *MINI.names) == CLASS_NAMES
    assert list(MINI.classes) == list(range(1, 15))
    assert MINI.background == tuple(category.name for category in (*BELOW, *ABOVE))
    for entry in MINI.classes.values():
        homes = [place for place in SETTINGS.values() if entry.name in place.things]
        own = (*homes[0].below, *homes[0].above) if entry.name in BOUND else None
        assert entry.background == own
        assert entry.synonyms == f"{entry.name}, {BY_NAME[entry.name].plural}"
