"""The VOC 2012 and COCO 2014 writers: lists, masks and colours as public readers expect them."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_world import SIZES

from diffground.io.labels import colour_map
from diffground.world.coco_segmentation import make_coco2014
from diffground.world.config import WorldConfig
from diffground.world.pictures import CLASS_NAMES, class_mask
from diffground.world.render import render
from diffground.world.scene import sample_scene
from diffground.world.voc import make_voc2012

COUNTS = {"train": 6, "train_aug": 10, "trainval": 9, "trainval_aug": 13, "val": 3}


@pytest.fixture
def voc(world: Path) -> Path:
    return world / "voc2012" / "VOCdevkit" / "VOC2012"


def test_voc_lists(voc: Path) -> None:
    folder = voc / "ImageSets"
    for name, count in COUNTS.items():
        lines = (folder / "SegmentationAug" / f"{name}.txt").read_text().splitlines()
        assert len(lines) == count
        for line in lines:
            picture, mask = line.split(" ")
            assert picture.startswith("/JPEGImages/") and mask.startswith("/SegmentationClassAug/")
            assert (voc / picture.lstrip("/")).is_file() and (voc / mask.lstrip("/")).is_file()
    names = {n: (folder / f"Segmentation/{n}.txt").read_text().split() for n in ("train", "val")}
    assert not set(names["train"]) & set(names["val"])
    for name in names["train"] + names["val"]:
        assert (voc / "SegmentationClass" / f"{name}.png").is_file()
    tested = (folder / "Segmentation/test.txt").read_text().split()
    assert tested == ["2012_600000", "2012_600001"] and not set(tested) & set(names["val"])
    assert all((voc / f"JPEGImages/{name}.jpg").is_file() for name in tested)
    assert not any(voc.glob("Segmentation*/2012_6*.png")), "its masks are nobody's to see"
    labels = (voc / "labels.txt").read_text().splitlines()
    assert labels[0] == "0\tbackground" and len(labels) == 15 == len(CLASS_NAMES)


def test_voc_masks(voc: Path) -> None:
    for path in (voc / "SegmentationClass").iterdir():
        with Image.open(path) as image:
            assert image.mode == "P" and image.size == (64, 64)
            labels = np.asarray(image)
            palette = np.array(image.getpalette()).reshape(-1, 3)
        assert (palette[:256] == colour_map()[: len(palette)]).all()
        with Image.open(voc / "SegmentationClassAug" / path.name) as grey:
            assert grey.mode == "L" and (np.asarray(grey) == labels).all()
        assert {0, 255} < set(np.unique(labels).tolist()) <= {*range(15), 255}


def test_borders_lie_on_outlines_only() -> None:
    rendering = render(sample_scene(3, 1, SIZES), 64)
    plain, bordered = (class_mask(rendering, borders=b) for b in (False, True))
    edge = bordered == 255
    assert (plain[~edge] == bordered[~edge]).all() and 0.005 < edge.mean() < 0.3
    things = np.where(plain > 0, rendering.ids, 0)
    around = np.pad(things, 1, mode="edge")
    shifts = [around[1:-1, :-2], around[1:-1, 2:], around[:-2, 1:-1], around[2:, 1:-1]]
    assert (np.any([shift != things for shift in shifts], axis=0) == edge).all()


def test_coco2014(world: Path) -> None:
    root = world / "coco2014" / "COCO2014"
    for split, count in (("train", 5), ("val", 3)):
        lines = (root / f"ImageSets/SegmentationClass/{split}.txt").read_text().splitlines()
        assert len(lines) == count
        for line in lines:
            token, *classes = line.split()
            assert token.startswith(f"COCO_{split}2014_") and len(token.split("_")[2]) == 12
            assert (root / f"JPEGImages/{split}2014/{token}.jpg").is_file()
            with Image.open(root / f"Annotations/{token.split('_')[2]}.png") as image:
                assert image.mode == "L"
                present = np.unique(np.asarray(image)).tolist()
            assert [int(c) + 1 for c in classes] == [label for label in present if label]


def test_datasets_do_not_share_scenes(world: Path) -> None:
    pictures = [p.read_bytes() for p in world.rglob("*.jpg")]
    assert len(set(pictures)) == len(pictures)


def test_an_image_does_not_depend_on_the_counts(
    tmp_path: Path, world: Path, config: WorldConfig
) -> None:
    fewer = config.model_dump() | {
        "voc2012": {"train": 2, "aug": 1, "val": 1},
        "coco2014": {"train": 2, "val": 1},
    }
    make_voc2012(tmp_path / "voc2012", WorldConfig.model_validate(fewer))
    make_coco2014(tmp_path / "coco2014", WorldConfig.model_validate(fewer))
    files = [p for p in tmp_path.rglob("*") if p.suffix in (".jpg", ".png")]
    assert len(files) == 4 + 4 + 3 + 3 + 3
    for path in files:
        assert path.read_bytes() == (world / path.relative_to(tmp_path)).read_bytes()
