"""From an image and a narrative to files: overlay, masks, run lengths, report."""

from __future__ import annotations

import json

import numpy as np
import pytest
import tiny_png
from pydantic import ValidationError
from recipes import recipe

from diffground.data.narrative_table import read_requests
from diffground.errors import InputError
from diffground.io.images import read_image, write_png
from diffground.io.paths import slug
from diffground.papers.png.config import PredictConfig
from diffground.papers.png.predict import predict

TEXT = "a [red ball] on the [grass] below a blue [sky]."
PLAIN, SPANS = "a red ball on the grass below a blue sky.", [(2, 10), (18, 23), (37, 40)]
SIZE = (40, 90)  # of the test image, pixels


ZERO_SHOT = {"insertion": "none", "decode": False, "threshold": 0.4}


@pytest.fixture
def image(tmp_path):
    y, x = np.mgrid[: SIZE[0], : SIZE[1]]
    pixels = np.where((y < 20)[..., None], (150, 200, 250), (40, 160, 40)).astype(np.uint8)
    pixels[(x - 30) ** 2 + (y - 25) ** 2 < 90] = (220, 40, 40)
    return write_png(tmp_path / "images/ball.png", pixels)


def run(folder, config: PredictConfig, **model):
    experiment = tiny_png.config(model=ZERO_SHOT | model)
    zero_shot, root = tiny_png.model(**ZERO_SHOT, **model).eval(), tiny_png.benchmark().root
    return predict(zero_shot, "none-test", experiment, config, root, folder)


def test_files_of_one_image(tmp_path, image):
    folder = run(tmp_path / "out", recipe(PredictConfig, image=image, narrative=TEXT))
    names = ["00_red_ball.png", "01_grass.png", "02_sky.png"]
    assert {path.name for path in folder.iterdir()} == {
        "report.json", "manifest.json", "masks.json", "overlay.png", *names,
    }  # fmt: skip
    content = json.loads((folder / "masks.json").read_text())
    assert content["narrative"] == PLAIN and content["phrases_by"] == "brackets"
    assert content["size"] == list(SIZE) and content["scale"] == "mini"
    assert content["variant"] == "none-test"
    backbone = tiny_png.backbone()
    assert content["backbone"] == {
        "name": backbone.folder.name, "fingerprint": backbone.fingerprint(),
    }  # fmt: skip
    assert [row["file"] for row in content["phrases"]] == names
    for row, span in zip(content["phrases"], SPANS, strict=True):
        assert row["span"] == list(span) and row["text"] == PLAIN[slice(*span)]
        assert read_image(folder / row["file"]).shape[:2] == SIZE
        assert row["score"] is None or 0.4 < row["score"] <= 1
    assert any(row["area"] for row in content["phrases"])
    overlay = read_image(folder / "overlay.png")
    assert overlay.shape[1] > 2 * 320 and overlay.shape[0] > 320 * SIZE[0] // SIZE[1]
    report = json.loads((folder / "report.json").read_text())
    assert report["skipped"] == 0 and report["grounded"][0]["phrases"] == [
        "red ball",
        "grass",
        "sky",
    ]


def test_a_later_prediction_replaces_an_earlier_one(tmp_path, image):
    folder = tmp_path / "out"
    run(folder, recipe(PredictConfig, image=image, narrative=TEXT))
    run(folder, recipe(PredictConfig, image=image, narrative="a [ball]"))
    assert [path.name for path in sorted(folder.glob("0*.png"))] == ["00_ball.png"]
    with pytest.raises(InputError, match="character 3"):
        run(folder, recipe(PredictConfig, image=image, narrative="a [ball"))
    assert (folder / "00_ball.png").exists()  # a failure leaves what was there


def test_found_phrases_and_those_beyond_the_limit(tmp_path, image):
    config = recipe(
        PredictConfig,
        image=image,
        narrative="In the picture a red ball lies on grass.",
        max_phrases=1,
    )
    content = json.loads((run(tmp_path / "out", config) / "masks.json").read_text())
    assert content["phrases_by"] == "found" and content["left_out"] == ["grass"]
    assert [row["text"] for row in content["phrases"]] == ["red ball"]


def test_phrases_lost_to_truncation_are_said(tmp_path, image):
    narrative = "a [ball] " + "w " * 80 + "and a [sky]"
    config = recipe(PredictConfig, image=image, narrative=narrative)
    folder = run(tmp_path / "out", config, long_captions="truncate")
    rows = json.loads((folder / "masks.json").read_text())["phrases"]
    assert [row["lost"] for row in rows] == [False, True]
    assert rows[1]["score"] is None and rows[1]["area"] == 0 and rows[1]["bbox"] == [0, 0, 0, 0]
    assert json.loads((folder / "report.json").read_text())["grounded"][0]["lost"] == ["sky"]


@pytest.mark.parametrize("kind", ["csv", "jsonl"])
def test_bad_rows_of_a_table_do_not_stop_the_others(tmp_path, image, kind):
    (image.parent / "broken.png").write_bytes(image.read_bytes()[:60])
    rows = [
        ("ball.png", TEXT),
        ("none.png", TEXT),
        ("broken.png", TEXT),
        ("ball.png", "a [ball, and more"),
        ("ball.png", "It is there."),
        ("ball.png", ""),
        ("ball.png", "the ball"),
    ]
    table = tmp_path / f"table.{kind}"
    if kind == "csv":
        lines = ["id,image,narrative", *(f'7,{name},"{text}"' for name, text in rows)]
    else:
        lines = [json.dumps({"image": name, "narrative": text}) for name, text in rows]
        lines[5] = "{no json"
    table.write_text("\n".join(lines) + "\n", encoding="utf-8")
    folder = run(tmp_path / "out", recipe(PredictConfig, image=image.parent, table=table))
    report = json.loads((folder / "report.json").read_text())
    assert report["total"] == 7 and report["skipped"] == 5
    problems = {problem["item"]: problem["field"] for problem in report["problems"]}
    assert problems == {
        "001_none": "file",
        "002_broken": "pixels",
        "003_ball": "brackets",
        "004_ball": "phrases",
        "005": "line 7" if kind == "csv" else "line 6",
    }
    assert [entry["name"] for entry in report["grounded"]] == ["000_ball", "006_ball"]
    assert {path.name for path in folder.iterdir() if path.is_dir()} == {"000_ball", "006_ball"}
    assert (folder / "006_ball/00_ball.png").exists()


@pytest.mark.parametrize("name", ["../secret.png", "/etc/secret.png", "x/../../secret.png"])
def test_images_of_a_table_stay_within_its_folder(tmp_path, name):
    rows = [{"image": name, "narrative": "a"}, {"image": "x/fine.png", "narrative": "a"}]
    lines = [*map(json.dumps, rows), "[" * 200_000]
    (tmp_path / "t.jsonl").write_text("\n".join(lines))
    outside, fine, deep = read_requests(tmp_path / "t.jsonl", tmp_path / "images")
    assert outside.error is not None and outside.error.field == "line 1"
    assert "no path within the dataset" in outside.error.reason
    assert fine.error is None and fine.image == tmp_path / "images/x/fine.png"
    assert deep.error is not None and deep.error.field == "line 3"


def test_tables_that_cannot_be_read(tmp_path):
    for name, text, message in [
        ("t.txt", "", "one of .csv, .jsonl"),
        ("t.csv", "image,text\na,b\n", "columns image and narrative"),
        ("t.csv", "image,narrative\n", "has none"),
        ("t.jsonl", "\n", "has none"),
    ]:
        (tmp_path / name).write_text(text)
        with pytest.raises(InputError, match=message):
            read_requests(tmp_path / name, tmp_path)
    (tmp_path / "t.csv").write_bytes("image,narrative\na,\u00e9".encode("latin-1"))
    with pytest.raises(InputError, match="UTF-8"):
        read_requests(tmp_path / "t.csv", tmp_path)
    with pytest.raises(InputError, match="cannot be read"):
        read_requests(tmp_path / "missing.csv", tmp_path)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        ({"image": "a.png"}, "need each other"),
        ({"narrative": "a [b]"}, "need each other"),
        ({"table": "t.csv", "narrative": "a [b]"}, "its own narratives"),
    ],
)
def test_parameters_that_make_no_sense(options, message):
    with pytest.raises(ValidationError, match=message):
        recipe(PredictConfig, **options)


def test_names_of_files():
    assert slug("Mr. Smith's  dog!") == "mr_smith_s_dog"
    assert slug("?") == "phrase" and len(slug("w" * 99)) == 40
