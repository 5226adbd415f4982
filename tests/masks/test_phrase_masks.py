"""The one result: masks by phrase, their picture, their files, and COCO's form of them."""

from __future__ import annotations

import json

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
        "manifest.json", "masks.json", "overlay.png", *names,
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
