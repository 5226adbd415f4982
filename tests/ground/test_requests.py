"""What people ask of which image: words, folders and tables."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from pydantic import ValidationError
from recipes import recipe

from diffground.errors import InputError
from diffground.ground.config import GroundConfig
from diffground.ground.requests import (
    Refused,
    Request,
    Words,
    read_table,
    read_words,
    requests_of_folder,
)


def test_phrases_stand_between_semicolons() -> None:
    found = Words.read("a cat; The sofa;an owl ; theatre;; cat")
    assert found.phrases == ("cat", "sofa", "owl", "theatre", "cat") and found.by == "listed"
    assert found.distinct == ["cat", "sofa", "owl", "theatre"]
    with pytest.raises(InputError, match="WORDS: phrases: there is none; say"):
        Words.read(" ; ")


def test_brackets_mark_phrases_for_every_method() -> None:
    for narratives in (True, False):
        found = read_words("a [red ball] on [grass]", narratives=narratives)
        assert found.phrases == ("red ball", "grass") and found.by == "brackets"
        assert found.narrative == "a red ball on grass" and found.spans == ((2, 10), (14, 19))


def test_nouns_are_found_for_a_method_that_reads_narratives() -> None:
    text = "A red ball lies on the grass."
    assert read_words(text, narratives=True).phrases == ("red ball", "grass")
    assert read_words(text, narratives=True).by == "found"
    assert read_words("red ball", narratives=False).phrases == ("red ball",)


def test_phrases_beyond_the_limit_are_left_out() -> None:
    found = Words.read("a [ball] on [grass] under [sky]").limited(1)
    assert found.phrases == ("ball",) and found.spans == ((2, 6),)
    assert found.left_out == ("grass", "sky") and found.narrative == "a ball on grass under sky"
    assert Words.read("a;b").limited(None) == Words.read("a;b").limited(2) == Words.read("a;b")


def test_images_of_a_folder_have_the_names_of_their_results(tmp_path: Path) -> None:
    for name in ("b.jpg", "a.png", "a.jpg", "deep/c.JPEG", "notes.txt", ".hidden/d.png", ".e.png"):
        (tmp_path / name).parent.mkdir(exist_ok=True)
        (tmp_path / name).touch()
    (tmp_path / "a\nb.png").touch()
    found = requests_of_folder(tmp_path, Words.read("cat"))
    names = [each.name for each in found if isinstance(each, Request)]
    assert names == ["a.jpg", "a.png", "b", "deep/c"]
    (refused,) = (each for each in found if isinstance(each, Refused))
    assert refused.name == "a\nb" and refused.error.field == "images"
    with pytest.raises(InputError, match="no image lies there"):
        requests_of_folder(tmp_path / "none", Words.read("cat"))


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_rows_of_a_table(tmp_path: Path, kind: str) -> None:
    rows = [
        {"image": "ball.png", "narrative": "a [ball] on grass"},
        {"image": "ball.png", "phrases": "a [odd; the grass"},
        {"prompt": "a photo of a cat", "phrases": "cat"},
        {"image": "ball.png"},
        {"phrases": "cat"},
        {"image": "ball.png", "narrative": "a [ball"},
    ]
    table = tmp_path / f"table.{kind}"
    if kind == "csv":
        columns = ("id", "image", "prompt", "phrases", "narrative")
        lines = [",".join(columns)]
        lines += [",".join(row.get(column, "") for column in columns) for row in rows]
    else:
        lines = [json.dumps(row) for row in rows]
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    first, second, third, *others = read_table(table, tmp_path / "images")
    assert isinstance(first, Request) and first.image == tmp_path / "images/ball.png"
    assert first.name == "000_ball" and first.words.phrases == ("ball",)
    assert isinstance(second, Request) and second.words.phrases == ("[odd", "grass")
    assert isinstance(third, Request) and third.prompt == "a photo of a cat"
    assert third.name == "002_a_photo_of_a_cat" and third.image is None
    reasons = [(each.name, each.error.field) for each in others if isinstance(each, Refused)]
    lines_of = {"csv": ("line 5", "line 6"), "jsonl": ("line 4", "line 5")}[kind]
    assert reasons == [("003_ball", lines_of[0]), ("004", lines_of[1]), ("005_ball", "brackets")]
    same = read_table(table, tmp_path, Words.read("dog"))[3]
    assert isinstance(same, Request) and same.words.phrases == ("dog",)


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "x/../../secret.png"])
def test_images_of_a_table_stay_within_its_folder(tmp_path: Path, name: str) -> None:
    rows = [{"image": name, "narrative": "a [b]"}, {"image": "x/fine.png", "narrative": "a [b]"}]
    lines = [*map(json.dumps, rows), "[" * 200_000]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    outside, fine, deep = read_table(tmp_path / "t.jsonl", tmp_path / "images")
    assert isinstance(outside, Refused) and outside.error.field == "line 1"
    assert "no path within the dataset" in outside.error.reason
    assert isinstance(fine, Request) and fine.image == tmp_path / "images/x/fine.png"
    assert isinstance(deep, Refused) and deep.error.field == "line 3"


def test_tables_that_cannot_be_read(tmp_path: Path) -> None:
    for name, text, message in [
        ("t.txt", "", "one of .csv, .jsonl"),
        ("t.csv", "image,text\na,b\n", "phrases or narrative, are needed"),
        ("t.csv", "file,narrative\na,b\n", "image or prompt"),
        ("t.csv", "image,narrative\n", "has none"),
        ("t.jsonl", "\n", "has none"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read_table(tmp_path / name, tmp_path)
    (tmp_path / "t.csv").write_bytes("image,narrative\na,\u00e9".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_table(tmp_path / "t.csv", tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_table(tmp_path / "missing.csv", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"source": "a.png"}, "say what to look for"),
        ({"prompt": "a cat", "words": "cat"}, "only the method grounded"),
        ({"method": "grounded", "prompt": "a cat"}, "say what to look for"),
        ({"method": "grounded", "prompt": "a", "source": "b", "words": "c"}, "no source"),
        ({"source": "a.png", "words": "cat", "images": "x"}, "they are a table's"),
        ({"method": "narrative", "vocabulary": "voc"}, "it is of the method text2mask"),
        ({"checkpoint": "x"}, "text2mask has none"),
        ({"method": "grounded", "checkpoint": ["x", "y"]}, "several are of the method personal"),
    ],
)
def test_parameters_that_make_no_sense(options: dict[str, object], message: str) -> None:
    with pytest.raises(ValidationError, match=message):
        recipe(GroundConfig, **options)


def test_checkpoints_by_name_and_by_path(tmp_path: Path) -> None:
    (tmp_path / "models/mine").mkdir(parents=True)
    (tmp_path / "other").mkdir()
    asked = recipe(GroundConfig, method="personal", checkpoint=["mine", str(tmp_path / "other")])
    places = [tmp_path / "models/mine", tmp_path / "other"]
    assert asked.checkpoints(tmp_path / "models") == places
    wrong = recipe(GroundConfig, method="grounded", checkpoint="mien")
    assert wrong.checkpoint == ("mien",)
    with pytest.raises(InputError, match="mien: checkpoint: .* there are: mine"):
        wrong.checkpoints(tmp_path / "models")
