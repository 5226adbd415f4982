"""The doctor counts what was put in, and says what to do."""

import errno
import json
import os
from pathlib import Path

import pytest
from PIL import Image
from png_world import BEAR, GRASS, TREE_A, TREE_B, build, chunk, narrative
from recipes import recipe

from diffground.data import png_reading as splits
from diffground.data.config import PngSplits
from diffground.data.png_benchmark import PngBenchmark
from diffground.data.png_doctor import examine, render
from diffground.data.png_reading import broken_samples, examine_training_data, left_out


def _rows():
    return [
        narrative(),  # bear; trees, flagged plural, two segments, one of them behind an equal box
        narrative("5", "Trees and grass", [
            chunk("trees", [TREE_A], plural=True), chunk("and"), chunk("grass", [GRASS]),
        ]),
        narrative("77", "wood bear", [chunk("wood", [TREE_A, TREE_B]), chunk("bear", [BEAR])]),
        narrative("5", "Nothing", [chunk("nothing", noun=True)]),
        narrative("5", "Not aligned"),
    ]  # fmt: skip


def test_counts(tmp_path):
    result = examine(PngBenchmark(build(tmp_path, _rows()), "val2017"), max_phrases=1)
    assert result["narratives"] == {
        "examined": 5, "usable": 3, "without grounded phrase": 1, "broken": 1,
    }  # fmt: skip
    assert result["phrases"] == {
        "grounded": 6,
        "ungrounded nouns": 3,  # "picture" twice (the unaligned narrative has it too), "nothing"
        "segments on chunks that are no nouns": 0,
        "things (rule count)": 2,
        "stuff (rule count)": 4,
        "things (rule flag)": 4,
        "stuff (rule flag)": 2,
        "plural (rule count)": 2,
        "plural (rule flag)": 2,
        "flagged plural, one segment": 1,
        "not flagged, several segments": 1,
        "with a crowd region": 0,
        "beyond the first 1": 3,
    }
    assert result["boxes"] == {
        "images with segments of equal boxes": 3,
        "segments behind an equal box": 3,
        "phrases a box-based reader gets wrong": 2,
    }
    assert result["deep"] is None
    json.dumps(result)


def test_a_healthy_copy_needs_nothing(tmp_path):
    benchmark = PngBenchmark(build(tmp_path, [narrative()]), "val2017")
    result = examine(benchmark, deep=True)
    assert result["advice"] == [] and result["deep"]["skipped"] == 0
    assert "Nothing to do." in render(result)


def test_missing_and_broken_files_are_told_with_the_remedy(tmp_path):
    root = build(tmp_path, [narrative(), narrative("5"), narrative("77")])
    pngs = root / "annotations/panoptic_segmentation/val2017"
    (pngs / "000000000005.png").unlink()
    cut = pngs / "000000000077.png"
    cut.write_bytes(cut.read_bytes()[:60])
    (pngs / "stray.png").write_bytes(b"")
    result = examine(PngBenchmark(root, "val2017"), deep=True)
    assert result["panoptic"] == {
        "annotations in the JSON": 3,
        "of these PNGs on disk": 2,
        "PNGs missing": 1,
        "PNGs the JSON does not name": 1,
    }
    assert [problem["item"] for problem in result["deep"]["problems"]] == ["77_2"]
    text = render(result)
    assert "tar -xf" in text and "77_2" in text and "| PNGs missing | 1 |" in text


def test_the_text_shows_a_few_problems_and_counts_the_rest(tmp_path):
    rows = [narrative("12") for _ in range(15)]
    text = render(examine(PngBenchmark(build(tmp_path, rows), "val2017")))
    assert text.count("no image has the id 12") == 10 and "and 5 more" in text


SPLITS = recipe(PngSplits, train="val2017")


def findings(root, cache):
    return examine_training_data(root, SPLITS, 30, cache)


def denying(monkeypatch, name):
    """Opening a file of this name fails as on a network that lost its server."""
    opened = Image.open

    def refuse(path, *args, **options):
        if Path(path).name == name:
            raise OSError(errno.ESTALE, os.strerror(errno.ESTALE), str(path))
        return opened(path, *args, **options)

    monkeypatch.setattr(Image, "open", refuse)
    monkeypatch.setattr(splits, "_opens", lambda file: Path(file).name != name)


def test_what_the_system_denied_is_looked_at_again(tmp_path, monkeypatch):
    root = build(tmp_path / "coco", [narrative(), narrative("5")])
    with monkeypatch.context() as patch:
        denying(patch, "000000000005.jpg")
        found = findings(root, tmp_path)
        assert broken_samples(found) == {"5_1"}
        (advice,) = found["advice"]
        assert "1 narratives have files that the system would not open" in advice
        assert left_out(root, SPLITS, 30, tmp_path) == ["5_1"]
        looked = []
        patch.setattr(splits, "examine", lambda *a, **k: looked.append(1) or examine(*a, **k))
        assert findings(root, tmp_path) == found and not looked, "it is denied still"
    assert not broken_samples(findings(root, tmp_path))
    assert left_out(root, SPLITS, 30, tmp_path) == []


@pytest.mark.parametrize("folder", ["images/val2017", "annotations/panoptic_segmentation/val2017"])
def test_files_replaced_under_an_unchanged_json_are_noticed(tmp_path, folder):
    root = build(tmp_path / "coco", [narrative(), narrative("5")])
    assert not broken_samples(findings(root, tmp_path))
    path = min((root / folder).iterdir())
    whole = path.read_bytes()
    path.write_bytes(b"\0" * len(whole))
    assert broken_samples(findings(root, tmp_path)) == {"5_1"}
    path.write_bytes(whole)
    assert not broken_samples(findings(root, tmp_path))
    path.unlink()
    assert broken_samples(findings(root, tmp_path)) == {"5_1"}
    assert left_out(root, SPLITS, 30, tmp_path) == ["5_1"]


@pytest.mark.parametrize("content", ["", "{", "[]", "{}", '{"found": {}, "broken": {}}'])
def test_damaged_findings_are_made_again(tmp_path, content):
    root = build(tmp_path / "coco", [narrative()])
    found = findings(root, tmp_path)
    (kept,) = tmp_path.glob("doctor-*.json")
    before = kept.read_text()
    kept.write_text(content)
    assert findings(root, tmp_path) == found and kept.read_text() == before
