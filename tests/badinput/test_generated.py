"""Bad inputs that nobody thought of: whatever stands in a file or a setting, it is named."""

from __future__ import annotations

import json
import tempfile
from pathlib import Path
from typing import Any

import pytest
from corpus import LONGEST, SECONDS, within
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as some
from pydantic import BaseModel, ValidationError
from recipes import SECTIONS, recipe
from sound import READERS, copy_of

from diffground.errors import InputError
from diffground.io.paths import inside

# The same inputs in every run: a failure here is one on every machine.
FEW = settings(
    max_examples=15,
    derandomize=True,
    deadline=None,
    database=None,
    suppress_health_check=[HealthCheck.function_scoped_fixture, HealthCheck.too_slow],
)
MANY = settings(FEW, max_examples=200)
#: Readers of a millisecond, by the file of theirs that is changed.
QUICK = {
    "mug19": ("items.json", "triplets.json"),
    "panoptic narratives": (
        "annotations/panoptic_val2017.json",
        "annotations/png_coco_val2017.json",
    ),
    "vocabulary": ("words.json",),
    "text2mask settings": ("diffground_text2mask.json",),
    "personalized settings": ("diffground_personalized.json",),
    "token": ("config.json",),
    "png model": ("png.json", "training.json"),
    "deeplab": ("config.json",),
    "checksums": ("SHA256SUMS",),
    "folder": ("labels.csv",),
    "table": ("table.csv",),
    "table of lines": ("table.jsonl",),
    "labels": ("a.png",),
    "panoptic png": ("a.png",),
    "class maps": ("a.safetensors",),
    "delta": ("delta.bin",),
    "checkpoint": ("last.pt",),
    "synthetic samples": ("shard-000-of-001.jsonl", "manifest.json"),
}
PAIRS = [(name, file) for name, files in QUICK.items() for file in files]

texts = some.text(some.characters(codec="utf-16", exclude_categories=()), max_size=12)
values = some.recursive(
    some.none() | some.booleans() | some.integers() | some.floats() | texts,
    lambda inner: some.lists(inner, max_size=3) | some.dictionaries(texts, inner, max_size=3),
    max_leaves=6,
)


def read(name: str, file: str, content: bytes) -> None:
    """Reads a sound folder with one other file; what is wrong with it is an InputError."""
    with tempfile.TemporaryDirectory() as root:
        folder = copy_of(name, Path(root) / "data")
        (folder / file).unlink()
        (folder / file).write_bytes(content)
        try:
            with within(SECONDS):
                told = READERS[name].read(folder)
        except InputError as error:
            assert error.reason and len(str(error)) < LONGEST
        else:
            assert all(problem.reason and problem.file for problem in told)


def sound(name: str, file: str) -> bytes:
    with tempfile.TemporaryDirectory() as root:
        return (copy_of(name, Path(root) / "data") / file).read_bytes()


def places(content: Any) -> list[tuple[Any, Any]]:
    """Every container of a JSON and each key in it."""
    found: list[tuple[Any, Any]] = []
    inner = content.items() if isinstance(content, dict) else enumerate(content)
    for key, value in inner:
        found.append((content, key))
        if isinstance(value, dict | list):
            found += places(value)
    return found


@pytest.mark.parametrize(("name", "file"), [pair for pair in PAIRS if pair[1].endswith(".json")])
def test_any_value_in_any_place(name: str, file: str) -> None:
    before = sound(name, file)

    @FEW
    @given(some.data(), values)
    def tried(data: some.DataObject, value: Any) -> None:
        content = json.loads(before)
        inner, key = data.draw(some.sampled_from(places(content)))
        inner[key] = value
        read(name, file, json.dumps(content).encode())

    tried()


@pytest.mark.parametrize(("name", "file"), PAIRS)
def test_any_bytes_in_any_place(name: str, file: str) -> None:
    before = sound(name, file)

    @FEW
    @given(some.integers(0, len(before)), some.integers(0, 64), some.binary(max_size=64))
    def tried(start: int, length: int, put: bytes) -> None:
        read(name, file, before[:start] + put + before[start + length :])

    tried()


@MANY
@given(some.text(max_size=40) | some.text("./\\:~aC\0", max_size=12) | texts)
def test_no_name_leaves_its_folder(name: str) -> None:
    base = Path("/data/set")
    try:
        path = inside(base, name, "list.txt", "line")
    except InputError as error:
        assert error.file == "list.txt" and len(str(error)) < LONGEST
        return
    assert path.resolve().is_relative_to(base) and path.resolve() != base
    assert "\\.." not in name


@pytest.mark.parametrize("kind", SECTIONS, ids=lambda kind: kind.__name__)
def test_any_value_of_any_setting(kind: type[BaseModel]) -> None:
    """Settings are refused by pydantic's error, which names the place."""
    sound_settings = recipe(kind).model_dump(mode="json")

    @FEW
    @given(some.data(), values)
    def tried(data: some.DataObject, value: Any) -> None:
        content = json.loads(json.dumps(sound_settings))
        inner, key = data.draw(some.sampled_from(places(content)))
        inner[key] = value
        try:
            kind.model_validate(content)
        except ValidationError as error:
            assert error.errors()[0]["msg"]
        except InputError as error:
            assert error.field

    tried()
