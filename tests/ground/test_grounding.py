"""One image, folders and tables, by each of the four methods, to the last file."""

from __future__ import annotations

import json
from pathlib import Path

import numpy as np
import pytest
import tiny_grounded
import tiny_personalized
import tiny_png
from pycocotools import mask as rle
from pycocotools.coco import COCO
from recipes import recipe

from diffground.errors import InputError
from diffground.ground.config import GroundConfig
from diffground.ground.grounding import ground
from diffground.ground.methods import Method, method_of, open_method
from diffground.io.files import write_json
from diffground.io.images import read_image, write_png
from diffground.io.panoptic import read_panoptic, segment_masks
from diffground.papers.grounded.trained import new_module, save_module
from diffground.papers.png.config import PngModelConfig
from diffground.papers.png.model import WEIGHTS, PngModel
from diffground.papers.png.trained import TRAINING

SIZE = (40, 60)  # (H, W) of the pictures
MINI = Path(__file__).parents[2] / "data/06_models/mini-sd"

pytestmark = pytest.mark.filterwarnings(  # pycocotools 2.0 with numpy 2, in decode alone
    "ignore:__array__ implementation doesn't accept a copy keyword"
)


@pytest.fixture
def photos(tmp_path: Path) -> Path:
    """Two pictures, one in a folder below."""
    for number, name in enumerate(("ball.png", "below/mug.png")):
        pixels = np.full((*SIZE, 3), (90, 160, 90), np.uint8)
        pixels[10:30, 5 + 20 * number : 25 + 20 * number] = (200, 30, 30)
        write_png(tmp_path / "photos" / name, pixels)
    return tmp_path / "photos"


@pytest.fixture(scope="module")
def trained(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A narrative grounder of the tiny model, of an adapter that says nothing."""
    folder = tmp_path_factory.mktemp("trained") / "mine"
    config = recipe(PngModelConfig, insertion="none", inner_product="frozen", decode=False)
    PngModel(tiny_png.backbone(), config, (1, 2)).save(folder)
    write_json(folder / TRAINING, {"data": tiny_png.DATA.model_dump(mode="json")})
    return folder


@pytest.fixture(scope="module")
def narrative(trained: Path) -> Method:
    return open_method("narrative", tiny_png.backbone().folder, [trained], seed=0, device="cpu")


def config(**changes: object) -> GroundConfig:
    return recipe(GroundConfig, **{"method": "narrative", "seed": 0, "device": "cpu", **changes})


def read(path: Path) -> dict[str, object]:
    return json.loads(path.read_text("utf-8"))


def check_lists(folder: Path, root: Path, photos: Path) -> COCO:
    """COCO's lists say the same as the results, and name files that there are."""
    coco = COCO(folder / "coco.json")
    panoptic = read(folder / "panoptic.json")
    names = {row["id"]: row["name"] for row in panoptic["categories"]}
    images = {row["id"]: row for row in panoptic["images"]}
    for annotation in panoptic["annotations"]:
        place = root / annotation["file_name"]
        rows = annotation["segments_info"]
        ids = read_panoptic(place)
        masks = segment_masks(ids, [row["id"] for row in rows])
        assert set(np.unique(ids)) - {0} == {row["id"] for row in rows}
        assert [int(mask.sum()) for mask in masks] == [row["area"] for row in rows]
        image = images[annotation["image_id"]]
        assert (photos / image["file_name"]).is_file()
        result = read(place.with_name("masks.json"))
        for row in rows:
            assert names[row["category_id"]] == result["phrases"][row["id"] - 1]["text"]
        whole = {row["text"]: read_image(place.with_name(row["file"])) for row in result["phrases"]}
        for found in coco.loadAnns(coco.getAnnIds(imgIds=[image["id"]])):
            (category,) = coco.loadCats(found["category_id"])
            assert (
                rle.decode(found["segmentation"]) == whole[category["name"]][..., 0] // 255
            ).all()
    return coco


def test_one_image_is_a_folder_of_all_formats(
    tmp_path: Path, photos: Path, narrative: Method
) -> None:
    asked = config(source=photos / "ball.png", words="a [red ball] on the [grass]")
    report = ground(asked, narrative, tmp_path / "out")
    assert {path.name for path in (tmp_path / "out").iterdir()} == {
        "overlay.png", "panoptic.png", "masks.json", "00_red_ball.png", "01_grass.png",
        "coco.json", "panoptic.json", "report.json", "manifest.json",
    }  # fmt: skip
    content = read(tmp_path / "out/masks.json")
    assert content["narrative"] == "a red ball on the grass" and content["phrases_by"] == "brackets"
    assert content["method"] == "narrative" and content["names"][1] == "mine"
    assert report == read(tmp_path / "out/report.json") and report["images"] == str(photos)
    (found,) = report["grounded"]
    assert [row["text"] for row in found["phrases"]] == ["red ball", "grass"]
    check_lists(tmp_path / "out", tmp_path / "out", photos)
    ground(config(source=photos / "ball.png", words="ball"), narrative, tmp_path / "out")
    assert [path.name for path in (tmp_path / "out").glob("0*.png")] == ["00_ball.png"]
    with pytest.raises(InputError, match="character 3"):
        ground(config(source=photos / "ball.png", words="a [b"), narrative, tmp_path / "out")
    assert (tmp_path / "out/00_ball.png").exists()  # a failure leaves what was there


def test_a_folder_is_resumed_and_broken_images_are_left_out(
    tmp_path: Path, photos: Path, narrative: Method
) -> None:
    whole = (photos / "ball.png").read_bytes()
    (photos / "cut.png").write_bytes(whole[:60])
    (photos / "text.jpg").write_text("no image")
    asked, out = config(source=photos, words="ball; grass; ball"), tmp_path / "out"
    report = ground(asked, narrative, out)
    assert [found["name"] for found in report["grounded"]] == ["ball", "below/mug"]
    assert {problem["item"]: problem["field"] for problem in report["problems"]} == {
        "cut": "pixels", "text": "format",
    }  # fmt: skip
    assert report["total"] == 4 and report["skipped"] == 2
    coco = check_lists(out, out / "masks", photos)
    assert [row["file_name"] for row in coco.imgs.values()] == ["ball.png", "below/mug.png"]
    (photos / "cut.png").write_bytes(whole)
    write_png(photos / "below/mug.png", np.zeros((*SIZE, 3), np.uint8))
    kept = out / "masks/ball/overlay.png"
    before = {path: path.stat().st_mtime_ns for path in out.glob("masks/*/*")}
    report = ground(asked, narrative, out)
    assert [found["name"] for found in report["grounded"]] == ["ball", "below/mug", "cut"]
    assert kept.stat().st_mtime_ns == before[kept]
    changed = out / "masks/below/mug/overlay.png"
    assert changed.exists() and (out / "masks/cut/overlay.png").exists()
    again = {path: path.stat().st_mtime_ns for path in out.glob("masks/*/*")}
    assert ground(asked, narrative, out) == report
    assert {path: path.stat().st_mtime_ns for path in out.glob("masks/*/*")} == again


def test_models_are_not_loaded_when_all_is_there(
    tmp_path: Path, photos: Path, trained: Path, narrative: Method
) -> None:
    asked = config(source=photos, words="ball")
    report = ground(asked, narrative, tmp_path / "out")
    fresh = open_method("narrative", tiny_png.backbone().folder, [trained], seed=0, device="cpu")
    assert ground(asked, fresh, tmp_path / "out") == report and "ask" not in vars(fresh)


def test_bad_rows_of_a_table_do_not_stop_the_others(
    tmp_path: Path, photos: Path, narrative: Method
) -> None:
    rows = ["image,narrative", "ball.png,a [ball]", "no.png,a [ball]", "ball.png,a [ball",
            "ball.png,It is there.", "ball.png,the ball on grass", ","]  # fmt: skip
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    asked = config(source=tmp_path / "t.csv", images=photos, max_phrases=1)
    report = ground(asked, narrative, tmp_path / "out")
    assert [found["name"] for found in report["grounded"]] == ["000_ball", "004_ball"]
    assert {problem["item"]: problem["field"] for problem in report["problems"]} == {
        "001_no": "file", "002_ball": "brackets", "003_ball": "phrases", "005": "line 7",
    }  # fmt: skip
    assert report["grounded"][1]["left_out"] == ["grass"]
    coco = check_lists(tmp_path / "out", tmp_path / "out/masks", photos)
    assert len(coco.imgs) == 1  # asked twice


def test_nothing_that_can_be_used_is_an_error(
    tmp_path: Path, photos: Path, narrative: Method
) -> None:
    (tmp_path / "t.csv").write_text("image,phrases\n../x.png,ball\n")
    with pytest.raises(InputError, match="none of 1 can be used; the first, 000_x: .*no path"):
        ground(config(source=tmp_path / "t.csv"), narrative, tmp_path / "out")
    (tmp_path / "t.csv").write_text("image,phrases\nx.png,ball\n")
    with pytest.raises(InputError, match=r"x\.png: file: none of 1 can be used"):
        ground(config(source=tmp_path / "t.csv"), narrative, tmp_path / "out")
    (tmp_path / "t.csv").write_text("prompt,phrases\na ball,ball\n")
    with pytest.raises(InputError, match="generated by the method grounded alone"):
        ground(config(source=tmp_path / "t.csv"), narrative, tmp_path / "out")


def test_any_words_without_training(tmp_path: Path, photos: Path) -> None:
    method = open_method("text2mask", MINI, vocabulary="mini", seed=1, device="cpu")
    asked = config(method="text2mask", source=photos, words="a [ball] by a [mug]")
    report = ground(asked, method, tmp_path / "out")
    assert [row["text"] for row in report["grounded"][0]["phrases"]] == ["ball", "mug"]
    assert "presence" in report["grounded"][0]["phrases"][0]["note"]
    check_lists(tmp_path / "out", tmp_path / "out/masks", photos)
    unknown = config(method="text2mask", source=photos, words="bal")
    with pytest.raises(InputError, match="none of 2 can be used.*did you mean"):
        ground(unknown, method, tmp_path / "out")


def test_things_of_ones_own(tmp_path: Path, photos: Path) -> None:
    model = tiny_personalized.frozen().model
    tiny_personalized.token(model).save(tmp_path / "my-mug")
    method = open_method("personal", model.folder, [tmp_path / "my-mug"], seed=0, device="cpu")
    asked = config(method="personal", source=photos, words="<new1> filled with cola")
    report = ground(asked, method, tmp_path / "out")
    (row,) = report["grounded"][0]["phrases"]
    assert row["text"] == "<new1> filled with cola" and method.names[1] == "my-mug"
    check_lists(tmp_path / "out", tmp_path / "out/masks", photos)


def test_prompts_and_photographs_by_one_module(tmp_path: Path, photos: Path) -> None:
    card = tiny_grounded.card()
    save_module(tmp_path / "module", card, new_module(tiny_png.backbone(), card.module, seed=0))
    model = tiny_png.backbone().folder
    method = open_method("grounded", model, [tmp_path / "module"], seed=3, device="cpu")
    asked = config(method="grounded", prompt="a red circle on grass", words="red circle", seed=3)
    report = ground(asked, method, tmp_path / "one")
    assert report["images"] == "." and report["grounded"][0]["image"] == "image.png"
    assert report["grounded"][0]["prompt"] == "a red circle on grass"
    assert read_image(tmp_path / "one/image.png").shape == (64, 64, 3)
    check_lists(tmp_path / "one", tmp_path / "one", tmp_path / "one")
    rows = ["image,prompt,phrases", ",a cat,cat", "ball.png,,cat"]
    (tmp_path / "t.csv").write_text("\n".join(rows) + "\n")
    asked = config(method="grounded", source=tmp_path / "t.csv", images=photos)
    report = ground(asked, method, tmp_path / "out")
    assert (tmp_path / "out/masks/000_a_cat/image.png").exists()
    assert not (tmp_path / "out/masks/001_ball/image.png").exists()
    check_lists(tmp_path / "out", tmp_path / "out/masks", photos)


def test_a_checkpoint_says_whose_it_is(tmp_path: Path, trained: Path) -> None:
    model = tiny_png.backbone()
    assert method_of(trained) == "narrative"
    assert method_of(trained / WEIGHTS) == "narrative"
    tiny_personalized.token(model).save(tmp_path / "token")
    assert method_of(tmp_path / "token") == "personal"
    card = tiny_grounded.card()
    save_module(tmp_path / "module", card, new_module(model, card.module, seed=0))
    assert method_of(tmp_path / "module") == "grounded"
    with pytest.raises(InputError, match="no trained model lies here"):
        method_of(tmp_path)
    with pytest.raises(InputError, match="it is of the method narrative, not of grounded"):
        open_method("grounded", model.folder, [trained], seed=0, device="cpu")
    with pytest.raises(InputError, match="needs one: `kedro run --pipelines grounding_train`"):
        open_method("grounded", model.folder, seed=0, device="cpu")
    with pytest.raises(InputError, match="there is no such folder"):
        open_method("personal", model.folder, [tmp_path / "no"], seed=0, device="cpu")
