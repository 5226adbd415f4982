"""Mug19's reader and doctor: bad entries are named and left out, and the rest goes on."""

from __future__ import annotations

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image
from tiny_world import SMALL

from diffground.data.mug19 import Mug19
from diffground.data.mug19_doctor import examine, render
from diffground.errors import InputError
from diffground.world.config import WorldConfig
from diffground.world.mug19 import make_mug19

Change = Callable[[dict[str, Any]], object]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("world") / "mug19"
    counts = {**SMALL["mug19"], "scenes": 4, "views": 1}
    make_mug19(folder, WorldConfig.model_validate(SMALL | {"mug19": counts}))
    return folder


@pytest.fixture
def copy(made: Path, tmp_path: Path) -> Path:
    return shutil.copytree(made, tmp_path / "mug19")


def edit(folder: Path, file: str, change: Change, number: int = 0) -> None:
    """Changes one entry of a list."""
    path = folder / file
    entries = json.loads(path.read_text("utf-8"))
    change(entries[number])
    path.write_text(json.dumps(entries), encoding="utf-8")


def test_what_the_world_writes_is_read(made: Path) -> None:
    data = Mug19.read(made)
    assert not data.report.problems and data.report.total == 19 + len(data.triplets)
    assert list(data.items) == [f"mug{number:02d}" for number in range(1, 20)]
    assert all(5 <= len(item.pictures) <= 6 for item in data.items.values())
    assert (data.items["mug07"].token, data.items["mug07"].word) == ("<new1>", "mug")
    first = data.triplets[0]
    assert first.id == f"scene01/000 {first.instance}" and first.item == first.instance
    assert "<new1> mug" in first.description and "<new1>" not in first.context
    image, target = first.load_image(), first.load_target()
    assert image.shape == (64, 128, 3) and target.shape == (64, 128) and target.any()
    assert (target == (np.array(Image.open(first.mask)) == first.segment)).all()


def test_splits_are_those_of_the_file(made: Path) -> None:
    data = Mug19.read(made)
    written = json.loads((made / "triplets.json").read_text("utf-8"))
    for split in ("all", "semantic_distractor", "visual_distractor", "variant"):
        assert len(data.of_split(split)) == sum(split in row["splits"] for row in written)
    variant = data.of_split("variant")[0]
    assert variant.item != variant.instance and variant.id.endswith(f" by {variant.item}")


def test_only_fields_that_readers_may_rely_on_are_read(copy: Path) -> None:
    kept = {"item", "instance", "context", "description", "image", "mask", "segment"}
    kept |= {"others", "splits"}
    path = copy / "triplets.json"
    rows = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps([{k: row[k] for k in kept} for row in rows]), encoding="utf-8")
    (copy / "scenes.json").unlink()
    data = Mug19.read(copy)
    assert len(data.triplets) == len(rows) and not data.report.problems


@pytest.mark.parametrize(
    ("field", "value", "said"),
    [
        ("item", "mug77", "mug77 is no item that can be used"),
        ("others", ["mug01", "mug78"], "mug78 is no item that can be used"),
        ("image", "scenes/scene99/000.jpg", "there is no such file; triplets.json names it"),
        ("mask", "../mask.png", "no path within the dataset"),
        ("segment", 0, "1 to 254 is needed, not 0"),
        ("segment", "1", "1 to 254 is needed, not '1'"),
        ("context", "a cup filled with tea", "has to say the class word 'mug' once"),
        ("description", "a mug filled with tea", "with <new1> before its class"),
        ("splits", ["hard"], "'hard' is none of all, semantic_distractor"),
        ("splits", "all", "a list of texts is needed"),
    ],
)
def test_a_broken_triplet_is_named_and_left_out(
    made: Path, copy: Path, field: str, value: object, said: str
) -> None:
    edit(copy, "triplets.json", lambda row: row.update({field: value}))
    data = Mug19.read(copy)
    assert len(data.triplets) == len(Mug19.read(made).triplets) - 1
    (problem,) = data.report.problems
    assert (problem.item, problem.field) == ("triplets 0", field) and said in problem.reason
    assert str(copy) in problem.file


def test_a_triplet_that_lacks_a_field_or_stands_twice_is_left_out(copy: Path) -> None:
    edit(copy, "triplets.json", lambda row: row.pop("item"))
    path = copy / "triplets.json"
    rows = json.loads(path.read_text("utf-8"))
    path.write_text(json.dumps([*rows, rows[1], "scene"]), encoding="utf-8")
    problems = Mug19.read(copy).report.problems
    assert [problem.field for problem in problems] == ["item", "id", "entry"]


def test_an_item_goes_on_with_the_pictures_that_are_there(copy: Path) -> None:
    (copy / "items/mug01/00.jpg").unlink()
    edit(copy, "items.json", lambda row: row.update(images=[]), number=1)
    data = Mug19.read(copy)
    assert "mug02" not in data.items and data.items["mug01"].pictures[0].name == "01.jpg"
    reported = {(problem.item, problem.field) for problem in data.report.problems}
    assert {("mug01", "images"), ("items 1", "images")} <= reported
    lost = [p for p in data.report.problems if p.reason.startswith("mug02 is no item")]
    assert lost and not any("mug02" in (t.item, *t.others) for t in data.triplets)


def test_a_list_that_is_none_stops_the_reading(copy: Path) -> None:
    (copy / "triplets.json").write_text("[]", encoding="utf-8")
    with pytest.raises(InputError, match="triplets: none can be used"):
        Mug19.read(copy)
    (copy / "items.json").write_text("{", encoding="utf-8")
    with pytest.raises(InputError, match="items.json: JSON: not readable as JSON"):
        Mug19.read(copy)
    (copy / "items.json").unlink()
    with pytest.raises(InputError, match="items.json: file: there is no such file"):
        Mug19.read(copy)


def test_the_doctor_opens_files_and_looks_for_segments(copy: Path) -> None:
    whole = examine(Mug19.read(copy), deep=True)
    assert whole["items"] == 19 and whole["sizes"] == {"128x64": 4} and whole["scenes"] == 4
    assert whole["splits"]["all"] + whole["splits"]["variant"] == whole["triplets"]
    assert whole["deep"]["problems"] == [] and examine(Mug19.read(copy), deep=False)["deep"] is None

    edit(copy, "triplets.json", lambda row: row.update(segment=200))
    (copy / "items/mug03/01.jpg").write_bytes(b"no picture")
    mask = copy / "masks/scene02/000.png"
    Image.open(mask).resize((32, 32), Image.Resampling.NEAREST).save(mask)
    found = examine(Mug19.read(copy), deep=True)["deep"]
    reported = {(row["field"], row["item"].partition(" ")[0]) for row in found["problems"]}
    assert reported == {
        ("segment", "scene01/000"),
        ("format", "items/mug03/01.jpg"),
        ("size", "scene02/000"),
    }
    (row,) = [row for row in found["problems"] if row["field"] == "segment"]
    assert "200" in row["reason"] and "is not in the mask" in row["reason"]
    text = render(examine(Mug19.read(copy), deep=True))
    assert "items/mug03/01.jpg" in text and "Not looked at" not in text
