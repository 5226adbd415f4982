"""The COCO panoptic writer: the public layout, ids, boxes, narratives, and the project's reader."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_world import SIZES, SMALL

from diffground.data.png_benchmark import PngBenchmark, load_targets
from diffground.io.panoptic import read_panoptic
from diffground.world.coco_panoptic import image_id, make_coco_panoptic
from diffground.world.config import WorldConfig
from diffground.world.render import render
from diffground.world.scene import sample_scene
from diffground.world.vocabulary import CATEGORIES

SPLITS = {"train2017": (24, 2017), "val2017": (6, 4242)}  # count and seed


@pytest.fixture(params=SPLITS)
def split(request: pytest.FixtureRequest) -> str:
    return str(request.param)


def read(world: Path, name: str, split: str) -> object:
    return json.loads((world / "coco" / "annotations" / f"{name}_{split}.json").read_text())


def test_files_of_the_layout(world: Path, split: str) -> None:
    coco = world / "coco"
    pictures = sorted(p.name for p in (coco / "images" / split).iterdir())
    masks = sorted(p.name for p in (coco / "annotations/panoptic_segmentation" / split).iterdir())
    assert len(pictures) == SPLITS[split][0]
    assert [p.removesuffix(".jpg") for p in pictures] == [m.removesuffix(".png") for m in masks]
    assert all(len(p) == 16 and p[:12].isdigit() for p in pictures)
    with Image.open(coco / "images" / split / pictures[0]) as image:
        assert (image.format, image.mode, image.size) == ("JPEG", "RGB", (64, 64))


def test_panoptic_json(world: Path, split: str) -> None:
    panoptic = read(world, "panoptic", split)
    assert set(panoptic) == {"info", "licenses", "images", "annotations", "categories"}
    for image, annotation in zip(panoptic["images"], panoptic["annotations"], strict=True):
        assert image["id"] == annotation["image_id"] and isinstance(image["id"], int)
        assert image["file_name"] == f"{image['id']:012d}.jpg"
        assert annotation["file_name"] == f"{image['id']:012d}.png"
        assert (image["height"], image["width"]) == (64, 64)
    for category in panoptic["categories"]:
        assert set(category) == {"id", "name", "isthing", "color", "supercategory"}
        assert len(category["color"]) == 3
    assert len({tuple(c["color"]) for c in panoptic["categories"]}) == len(CATEGORIES)
    assert sum(c["isthing"] for c in panoptic["categories"]) == 14


def test_png_and_json_agree(world: Path, split: str) -> None:
    stuff = {c.id for c in CATEGORIES if not c.is_thing}
    folder = world / "coco/annotations/panoptic_segmentation" / split
    for annotation in read(world, "panoptic", split)["annotations"]:
        ids = read_panoptic(folder / annotation["file_name"])
        rows = {row["id"]: row for row in annotation["segments_info"]}
        assert set(np.unique(ids).tolist()) == set(rows) and 0 not in rows
        for number, row in rows.items():
            ys, xs = np.nonzero(ids == number)
            assert row["area"] == len(xs)
            x, y, w, h = row["bbox"]
            assert (x, y) == (xs.min(), ys.min())
            assert (x + w - 1, y + h - 1) == (xs.max(), ys.max())
        kinds = [r["category_id"] for r in rows.values() if r["category_id"] in stuff]
        assert len(kinds) == len(set(kinds)), "a kind of stuff is one segment"


def test_segment_ids_look_random(world: Path) -> None:
    """Nobody may take them for row numbers, or for the same in every image."""
    annotations = read(world, "panoptic", "train2017")["annotations"]
    ids = [row["id"] for annotation in annotations for row in annotation["segments_info"]]
    assert len(set(ids)) == len(ids) and np.median(ids) > 2**20


def test_image_ids_belong_to_one_split() -> None:
    ids = [image_id(split, index) for split in SPLITS for index in range(5000)]
    assert len(set(ids)) == len(ids) and min(ids) > 0 and max(ids) < 10**6


def test_narratives(world: Path, split: str) -> None:
    panoptic = read(world, "panoptic", split)
    known = {a["image_id"]: {r["id"] for r in a["segments_info"]} for a in panoptic["annotations"]}
    rows = read(world, "png_coco", split)
    assert isinstance(rows, list) and len(rows) == SPLITS[split][0]
    kinds = set()
    for row in rows:
        assert set(row) == {"image_id", "annotator_id", "caption", "segments"}
        assert isinstance(row["image_id"], str) and isinstance(row["annotator_id"], int)
        words = row["caption"].lower().replace(",", " ,").replace(".", " .").split()
        assert [w for s in row["segments"] for w in s["utterance"].split()] == words
        for chunk in row["segments"]:
            assert set(chunk) == {"utterance", "segment_ids", "plural", "noun"}
            assert chunk["utterance"] == chunk["utterance"].lower()
            assert all(isinstance(i, str) for i in chunk["segment_ids"])
            assert {int(i) for i in chunk["segment_ids"]} <= known[int(row["image_id"])]
            assert chunk["noun"] or not (chunk["segment_ids"] or chunk["plural"])
            assert chunk["plural"] or len(chunk["segment_ids"]) <= 1
            kinds.add((chunk["noun"], bool(chunk["segment_ids"]), chunk["plural"]))
    some = {(False, False, False), (True, False, False), (True, True, False), (True, True, True)}
    assert kinds == some


def test_the_projects_reader_reads_all_of_it(world: Path, split: str) -> None:
    benchmark = PngBenchmark(world / "coco", split)
    samples, report = benchmark.read(max_phrases=None)
    assert report.to_dict()["skipped"] == 0 and len(samples) == SPLITS[split][0]
    for index, sample in enumerate(samples[:6]):
        rendering = render(sample_scene(SPLITS[split][1], index, SIZES), 64)
        for mask in load_targets(sample):
            numbers = set(rendering.ids[mask].tolist())
            assert (np.isin(rendering.ids, list(numbers)) == mask).all()


def test_crowds_are_one_segment(tmp_path: Path) -> None:
    content = SMALL | {"eval_seed": 1, "coco_panoptic": {"train": 60, "val": 1}}
    config = WorldConfig.model_validate(content)
    make_coco_panoptic(tmp_path / "coco", config)
    rows = [
        row
        for annotation in read(tmp_path, "panoptic", "train2017")["annotations"]
        for row in annotation["segments_info"]
        if row["iscrowd"]
    ]
    assert rows and all(row["category_id"] in (1, 9, 10, 13) for row in rows)
    samples, _ = PngBenchmark(tmp_path / "coco", "train2017").read()
    crowds = [p for s in samples for p in s.phrases if p.crowd]
    assert crowds and all(p.plural_flag and len(p.segment_ids) == 1 for p in crowds)


def test_a_scene_does_not_depend_on_the_count(
    tmp_path: Path, world: Path, config: WorldConfig
) -> None:
    fewer = config.model_copy(update={"coco_panoptic": type(config.coco_panoptic)(train=5, val=2)})
    make_coco_panoptic(tmp_path / "coco", fewer)
    files = [p for p in tmp_path.rglob("*") if p.suffix in (".jpg", ".png")]
    assert len(files) == 14
    for path in files:
        assert path.read_bytes() == (world / path.relative_to(tmp_path)).read_bytes()
    for name in ("panoptic", "png_coco"):
        small, large = (read(root, name, "train2017") for root in (tmp_path, world))
        if name == "panoptic":
            small, large = small["annotations"], large["annotations"]
        assert small == large[:5]
