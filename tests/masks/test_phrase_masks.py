"""The one result: masks by phrase, their picture, their files, and COCO's form of them."""

from __future__ import annotations

import json
import sys
from dataclasses import replace

import numpy as np
import pytest
from pycocotools import mask as coco

from diffground.errors import InputError
from diffground.io.images import read_image
from diffground.masks.phrase_masks import PhraseMasks, describe_mask

pytestmark = pytest.mark.filterwarnings(  # pycocotools 2.0 with numpy 2, in decode alone
    "ignore:__array__ implementation doesn't accept a copy keyword"
)


def result(phrases=("red ball", "sky", "red ball"), **fields) -> PhraseMasks:
    masks = np.zeros((len(phrases), 40, 60), bool)
    for place in range(len(phrases) - 1):  # the last is empty
        masks[place, 10 * place : 10 * place + 15, 5:25] = True
    scores = (0.875, *(0.5,) * (len(phrases) - 2), None)
    image = np.full((40, 60, 3), 90, np.uint8)
    return PhraseMasks(
        image=image, phrases=phrases, masks=masks, scores=scores, score="share", **fields
    )


def test_masks_by_words_and_by_place():
    found = result()
    assert len(found) == 3 and found.size == (40, 60)
    assert (found.mask("sky") == found.masks[1]).all() and (found.mask(2) == found.masks[2]).all()
    assert (found.background() == ~(found.masks[0] | found.masks[1])).all()
    with pytest.raises(KeyError, match="'dog' was not asked for: red ball, sky"):
        found.mask("dog")
    with pytest.raises(KeyError, match=r"several times: take one by place, \[0, 2\]"):
        found.mask("red ball")


def test_a_shared_pixel_is_of_the_best_phrase():
    """The first two share rows 10 to 14; the third is empty, and named like the first."""
    ids, rows = result().to_panoptic()
    assert ids.shape == (40, 60) and ids.dtype == np.uint32
    assert (ids == np.where(result().masks[0], 1, np.where(result().masks[1], 2, 0))).all()
    assert [(row["id"], row["category_id"], row["area"]) for row in rows] == [
        (1, 1, 15 * 20), (2, 2, 10 * 20),
    ]  # fmt: skip
    assert rows[1]["bbox"] == [5, 15, 20, 10]
    worse = replace(result(), scores=(None, 0.5, 0.9))
    ids, rows = worse.to_panoptic()
    assert (ids[10:15, 5:25] == 2).all() and [row["area"] for row in rows] == [10 * 20, 15 * 20]
    twice = replace(result(), masks=result().masks[[1, 1, 0]])
    ids, rows = twice.to_panoptic()  # the first claims all of the second
    assert [(row["id"], row["category_id"]) for row in rows] == [(1, 1), (3, 1)]


def test_supervision_has_the_same_masks():
    supervision = pytest.importorskip("supervision")
    found = result(phrases=("sky", "red ball", "sky", "grass"))  # the last is empty
    given = replace(found, scores=(0.875, None, 0.5, None)).to_supervision()
    assert isinstance(given, supervision.Detections) and len(given) == 3
    assert (given.mask == found.masks[:3]).all()
    assert given.xyxy.tolist() == [[5, 0, 25, 15], [5, 10, 25, 25], [5, 20, 25, 35]]
    assert given.data["class_name"].tolist() == ["sky", "red ball", "sky"]
    assert given.class_id.tolist() == [0, 1, 0]
    assert np.array_equal(given.confidence, [0.875, np.nan, 0.5], equal_nan=True)
    picture = supervision.MaskAnnotator().annotate(found.image.copy(), given)
    assert (picture != found.image).any(axis=-1)[5, 10] and (picture == found.image)[39, 59].all()
    nothing = replace(found, masks=np.zeros_like(found.masks)).to_supervision()
    assert len(nothing) == 0


def test_without_supervision_it_is_said_how_to_get_it(monkeypatch):
    monkeypatch.setitem(sys.modules, "supervision", None)
    with pytest.raises(InputError, match="pip install supervision"):
        result().to_supervision()


def test_a_repr_is_one_short_line():
    assert repr(result()) == "<PhraseMasks of 60x40 pixels: 'red ball' 12.5 %, 'sky' 12.5 %, " + (
        "'red ball' 0.0 %>"
    )
    many = repr(result(phrases=tuple(f"thing {number}" for number in range(30))))
    assert many.endswith(", 26 more>") and len(many) < 150


def test_the_files_of_a_result(tmp_path):
    text = "a red ball, a sky and a red ball"
    spans = ((2, 10), (14, 17), (24, 32))
    found = result(narrative=text, spans=spans, lost=(2,))
    folder = found.save(tmp_path / "out")
    names = ["00_red_ball.png", "01_sky.png", "02_red_ball.png"]
    assert {path.name for path in folder.iterdir()} == {
        "manifest.json", "masks.json", "overlay.png", "panoptic.png", *names,
    }  # fmt: skip
    content = json.loads((folder / "masks.json").read_text())
    assert content["size"] == [40, 60] and content["scores"] == "share"
    assert content["narrative"] == text
    for place, row in enumerate(content["phrases"]):
        assert row["file"] == names[place] and row["score"] == found.scores[place]
        assert row["lost"] == (place == 2) and row["span"] == list(spans[place])
        mask = read_image(folder / row["file"])[..., 0]
        assert (mask == 255 * found.masks[place]).all()
        assert (coco.decode(row["segmentation"]) == found.masks[place]).all()
    assert (read_image(folder / "overlay.png") == np.asarray(found.overlay())).all()
    assert [row["text"] for row in found.to_coco()] == list(found.phrases)


def test_a_later_result_replaces_an_earlier_one_and_nothing_else(tmp_path):
    result().save(tmp_path / "out")
    result(phrases=("sky", "tree")).save(tmp_path / "out")
    assert sorted(p.name for p in (tmp_path / "out").glob("0*")) == ["00_sky.png", "01_tree.png"]
    (tmp_path / "holiday.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match="left alone"):
        result().save(tmp_path)
    assert (tmp_path / "holiday.jpg").read_bytes() == b"mine"


def test_overlays_have_a_legend_or_the_narrative():
    alone, told = (
        result(),
        result(narrative="red ball, sky, red ball", spans=((0, 8), (10, 13), (15, 23))),
    )
    assert alone.overlay().width == 320, "one picture, enlarged"
    assert told.overlay().width > 640, "the image, and beside it the masks"
    assert told.overlay("by the tiny model. ").tobytes() != told.overlay().tobytes()
    assert alone.notes() == ["0.88", "0.50", "-"]


def test_masks_as_coco_has_them():
    mask = np.zeros((5, 7), dtype=bool)
    mask[1:3, 2:6] = True
    described = describe_mask(mask)
    assert described["area"] == 8 and described["bbox"] == [2, 1, 4, 2]
    np.testing.assert_array_equal(coco.decode(described["segmentation"]), mask)
    generator = np.random.default_rng(0)
    for height, width in [(1, 1), (33, 64), (480, 640)]:
        mask = generator.random((height, width)) > 0.5
        described = json.loads(json.dumps(describe_mask(mask)))
        np.testing.assert_array_equal(coco.decode(described["segmentation"]), mask)
