"""The benchmark reader: what it reads, what it refuses, and that one fault stops nothing else."""

import errno
import json
import os
from dataclasses import FrozenInstanceError
from pathlib import Path

import numpy as np
import pytest
from png_world import (
    BEAR,
    BEAR_CAPTION,
    BEAR_CHUNKS,
    CATEGORIES,
    CROWD,
    GRASS,
    SIZE,
    TREE_A,
    TREE_B,
    build,
    chunk,
    narrative,
    panoptic_json,
    segment_ids,
)

from diffground.data.png_annotations import CategoryMap
from diffground.data.png_benchmark import (
    PngBenchmark,
    load_image,
    load_targets,
)
from diffground.errors import InputError
from diffground.io.images import write_png
from diffground.io.panoptic import encode_panoptic


@pytest.mark.parametrize("layout", ["png", "coco"])
def test_reads_both_layouts_without_being_told(tmp_path, layout):
    root = build(tmp_path, [narrative()], layout=layout)
    (sample,), report = PngBenchmark(root, "val2017").read()
    (explicit,), _ = PngBenchmark(root, "val2017", layout).read()
    assert sample == explicit
    assert report.to_dict() == {"total": 1, "skipped": 0, "by_field": {}, "problems": []}
    assert (sample.id, sample.image_id, sample.row) == ("226461_0", 226461, 0)
    assert sample.size == SIZE and sample.caption == BEAR_CAPTION
    bear, trees = sample.phrases
    assert (bear.text, trees.text) == ("black bear", "trees")
    assert BEAR_CAPTION[slice(*sample.spans[0])] == "black bear"
    assert bear.segment_ids == (BEAR,) and bear.category_ids == (23,)
    assert trees.segment_ids == (TREE_A, TREE_B) and trees.plural_flag and not trees.thing
    assert bear.groups() == (True, False) and trees.groups() == (False, True)
    assert trees.groups("flag") == (True, True)  # every flagged plural is a thing
    with pytest.raises(FrozenInstanceError):
        sample.row = 3


def test_folders_may_mix_layouts_but_not_be_ambiguous(tmp_path):
    root = build(tmp_path, [narrative()], layout="png")
    (root / "val2017").mkdir()
    with pytest.raises(InputError, match="both images/val2017 and val2017 are there"):
        PngBenchmark(root, "val2017")
    assert PngBenchmark(root, "val2017", "png").image_folder == root / "images/val2017"
    with pytest.raises(InputError, match="no folder annotations/panoptic_val2017"):
        PngBenchmark(root, "val2017", "coco")
    with pytest.raises(InputError, match="no folder images/train2017 or train2017"):
        PngBenchmark(root, "train2017")
    with pytest.raises(InputError, match="root: there is no such folder"):
        PngBenchmark(root / "nowhere", "val2017")


def test_targets_are_the_united_segments(tmp_path):
    (sample,), _ = PngBenchmark(build(tmp_path, [narrative()]), "val2017").read()
    targets, ids = load_targets(sample), segment_ids()
    assert targets.shape == (2, *SIZE) and targets.dtype == bool
    assert (targets[0] == (ids == BEAR)).all()
    assert (targets[1] == np.isin(ids, [TREE_A, TREE_B])).all()
    assert load_image(sample).shape == (*SIZE, 3)


def test_grounded_means_noun_with_a_segment(tmp_path):
    chunks = [
        chunk("people", [CROWD, CROWD], plural=True),  # an id twice counts once
        chunk("near", [GRASS], noun=False),  # ids on a chunk that is no noun
        chunk("grass", [GRASS]),
        chunk("picture", noun=True),
    ]
    root = build(tmp_path, [narrative("77", "People near grass picture", chunks)])
    (sample,), _ = PngBenchmark(root, "val2017").read()
    assert [phrase.text for phrase in sample.phrases] == ["People", "grass"]
    people = sample.phrases[0]
    assert people.segment_ids == (CROWD,) and people.crowd and people.thing
    assert people.groups("count") == (True, False) and people.groups("flag") == (True, True)


def test_the_last_segment_decides_between_thing_and_stuff(tmp_path):
    both = [chunk("all", [BEAR, GRASS]), chunk("that", [GRASS, BEAR])]
    root = build(tmp_path, [narrative("5", "All that", both)])
    (sample,), _ = PngBenchmark(root, "val2017").read()
    assert [phrase.thing for phrase in sample.phrases] == [False, True]


def test_max_phrases_and_limit(tmp_path):
    many = [chunk("bear", [BEAR]) for _ in range(5)]
    broken = narrative("12")
    rows = [broken, narrative("5", "bear " * 5, many), broken, narrative("77"), narrative("5")]
    root = build(tmp_path, rows)
    samples, report = PngBenchmark(root, "val2017").read(max_phrases=3, limit=2)
    assert [sample.id for sample in samples] == ["5_1", "77_3"]
    assert [len(sample.phrases) for sample in samples] == [3, 2]
    assert [sample.dropped_phrases for sample in samples] == [2, 0]
    assert [sample.category_ids for sample in samples] == [(23,), (23, 184)]
    assert report.total == 4 and [problem.item for problem in report.problems] == ["12_0", "12_2"]
    samples, _ = PngBenchmark(root, "val2017").read(max_phrases=None)
    assert len(samples[0].phrases) == 5


class Digits(str):
    """Digits that are written into JSON as a number, which Python itself refuses to read."""


def _without(key):
    row = narrative()
    del row[key]
    return row


def _segment(**changes):
    row = narrative()
    row["segments"][3].update(changes)
    return row


BROKEN = {
    "unaligned": (narrative(caption="Something else."), "segments.utterance", "chunk 0 'in this'"),
    "unknown id": (_segment(segment_ids=["4"]), "segments.segment_ids", r"no segment \[4\]"),
    "id no digits": (_segment(segment_ids=["a4"]), "segments.segment_ids", "list of digits"),
    "no plural": (_segment(plural=None), "segments.plural", "chunk 3: true or false"),
    "text": (_segment(utterance=7), "segments.utterance", "a string, not 7"),
    "no word": (_segment(utterance="..."), "segments.utterance", "no word in the phrase"),
    "no caption": (_without("caption"), "caption", "missing or empty"),
    "no segments": (_without("segments"), "segments", "list of chunks"),
    "image id": (narrative("12"), "images", "no image has the id 12"),
    "image id text": (narrative("x"), "image_id", "digits are expected, not 'x'"),
    "image id of 5000 digits": (narrative("1" * 5000), "image_id", "digits are .* not '1{20,80}"),
    "number of 5000 digits": (narrative(Digits("1" * 5000)), "image_id", "digits are"),
    "segment of 5000 digits": (_segment(segment_ids=["1" * 5000]), "segments.segment_ids", "digi"),
    "half a character": (narrative(caption="a bear \ud800"), "caption", "no text in Unicode"),
    "no object": (["a"], "narrative", "JSON object"),
    "nothing grounded": (narrative(segments=BEAR_CHUNKS[:2]), "segments.segment_ids", "no noun"),
}  # fmt: skip


@pytest.mark.parametrize("fault", BROKEN)
def test_a_broken_narrative_is_reported_and_the_rest_is_read(tmp_path, fault):
    row, field, reason = BROKEN[fault]
    root = build(tmp_path, [row, narrative("5")])
    if isinstance(row, dict) and isinstance(row.get("image_id"), Digits):
        path = root / "annotations/png_coco_val2017.json"
        path.write_text(path.read_text().replace(f'"{row["image_id"]}"', row["image_id"]))
    samples, report = PngBenchmark(root, "val2017").read()
    assert [sample.id for sample in samples] == ["5_1"]
    (problem,) = report.problems
    assert problem.field == field and len(problem.reason) < 300 and len(problem.item) < 30
    with pytest.raises(InputError, match=reason):
        raise InputError(problem.file, problem.field, problem.reason)


def test_missing_files_are_known_before_any_is_opened(tmp_path):
    root = build(tmp_path, [narrative(), narrative("5"), narrative("77")])
    (root / "images/val2017/000000226461.jpg").unlink()
    (root / "annotations/panoptic_segmentation/val2017/000000000005.png").unlink()
    samples, report = PngBenchmark(root, "val2017").read()
    assert [sample.id for sample in samples] == ["77_2"]
    assert report.to_dict()["by_field"] == {"image": 1, "panoptic PNG": 1}


@pytest.mark.parametrize("part", ["images", "annotations", "categories"])
def test_a_panoptic_json_without_a_part_is_refused(tmp_path, part):
    panoptic = panoptic_json()
    root = build(tmp_path, [narrative()], panoptic=panoptic)
    del panoptic[part]
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(panoptic))
    with pytest.raises(InputError, match=f"panoptic_val2017.json: {part}: a list is expected"):
        PngBenchmark(root, "val2017")


def test_json_that_is_no_json(tmp_path):
    root = build(tmp_path, [narrative()])
    path = root / "annotations/png_coco_val2017.json"
    path.write_text("[{")
    with pytest.raises(InputError, match="png_coco_val2017.json: JSON"):
        PngBenchmark(root, "val2017")
    path.write_text("{}")
    with pytest.raises(InputError, match="a list of narratives"):
        PngBenchmark(root, "val2017")
    path.unlink()
    with pytest.raises(InputError, match="there is no such file"):
        PngBenchmark(root, "val2017")


def test_json_that_is_nested_too_deeply_is_named(tmp_path):
    root = build(tmp_path, [narrative()])
    (root / "annotations/png_coco_val2017.json").write_text("[" * 200_000)
    with pytest.raises(InputError, match=r"png_coco_val2017\.json: JSON: brackets are nested too"):
        PngBenchmark(root, "val2017")


@pytest.mark.parametrize("part", ["images", "annotations"])
@pytest.mark.parametrize("bad", ["1" * 5000, 1e999, None, [], "outside"])
def test_a_bad_record_of_the_panoptic_json_costs_its_own_narratives_only(tmp_path, part, bad):
    rows = [narrative(), narrative("5")]
    panoptic = panoptic_json()
    root = build(tmp_path, rows, panoptic=panoptic)
    record, key = panoptic[part][0], "id" if part == "images" else "image_id"
    if bad == "outside":
        record["file_name"] = "../../../../etc/passwd"
    else:
        record[key] = bad
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(panoptic))
    samples, report = PngBenchmark(root, "val2017").read()
    assert [sample.id for sample in samples] == ["5_1"]
    (problem,) = report.problems
    assert problem.item == "226461_0"
    assert problem.field == (f"{part}.file_name" if bad == "outside" else part)


@pytest.mark.parametrize("name", ["/etc/passwd", "../a", ".hidden", "", "a\0.jpg", "x/../a.jpg"])
def test_a_named_file_stays_within_the_data(tmp_path, name):
    panoptic = panoptic_json()
    root = build(tmp_path, [narrative("5")], panoptic=panoptic)
    for record in (*panoptic["images"], *panoptic["annotations"]):
        record["file_name"] = name
    (root / "annotations/panoptic_val2017.json").write_text(json.dumps(panoptic))
    _, report = PngBenchmark(root, "val2017").read()
    assert [problem.field for problem in report.problems] == ["images.file_name"]


def test_a_folder_that_cannot_be_listed_is_no_missing_file(tmp_path, monkeypatch):
    root = build(tmp_path, [narrative()])

    def refuse(self):
        raise PermissionError(errno.EACCES, os.strerror(errno.EACCES), str(self))

    monkeypatch.setattr(Path, "iterdir", refuse)
    _, report = PngBenchmark(root, "val2017").read()
    (problem,) = report.problems
    assert problem.may_pass and "Permission denied" in problem.reason


def test_an_annotation_of_an_unknown_category_is_reported(tmp_path):
    panoptic = panoptic_json()
    panoptic["categories"] = CATEGORIES[:2]
    _, report = PngBenchmark(build(tmp_path, [narrative()], panoptic=panoptic), "val2017").read()
    assert "no category has the id [23, 184, 193]" in report.problems[0].reason


def test_pixels_are_checked_when_they_are_opened(tmp_path):
    (sample,), _ = PngBenchmark(build(tmp_path, [narrative()]), "val2017").read()
    write_png(sample.panoptic_path, encode_panoptic(np.full(SIZE, GRASS)))
    with pytest.raises(InputError, match=rf"no pixel has the id \[{TREE_B}, {BEAR}, {TREE_A}\]"):
        load_targets(sample)
    write_png(sample.panoptic_path, encode_panoptic(segment_ids().T))
    with pytest.raises(InputError, match=r"size: \(32, 24\) pixels"):
        load_targets(sample)
    write_png(sample.image_path, np.zeros((4, 4, 3), np.uint8))
    with pytest.raises(InputError, match=r"size: \(4, 4\) pixels"):
        load_image(sample)


def test_category_map_is_contiguous_by_rising_id():
    categories = CategoryMap.from_panoptic(CATEGORIES)
    assert categories.ids == (1, 23, 184, 193, 200) and len(categories) == 5
    assert categories.names[categories.index(200)] == "rug"
    assert [categories.is_thing(i) for i in categories.ids] == [True, True, False, False, False]
    with pytest.raises(KeyError, match="category 2"):
        categories.index(2)
    with pytest.raises(InputError, match="categories"):
        CategoryMap.from_panoptic([{"id": 1, "name": "person"}])
    with pytest.raises(InputError, match="stands twice"):
        CategoryMap.from_panoptic([CATEGORIES[0], CATEGORIES[0]])
