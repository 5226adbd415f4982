"""The console command, in an empty folder."""

from __future__ import annotations

import json
import logging
import shutil
import tomllib
from pathlib import Path

import numpy as np
import pytest
import tiny_png
from click.testing import CliRunner, Result
from recipes import recipe

from diffground import shipped as found
from diffground.console import ENVIRONMENTS, main
from diffground.errors import InputError
from diffground.io.files import write_json
from diffground.io.images import write_png
from diffground.papers.png.config import PngModelConfig
from diffground.papers.png.model import PngModel
from diffground.papers.png.trained import TRAINING


@pytest.fixture
def image(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Two colours; and the command runs beside it, in an empty folder, without Kedro's logging."""
    monkeypatch.setattr(logging.getLogger(), "handlers", [])
    pixels = np.full((40, 60, 3), (90, 160, 90), np.uint8)
    pixels[10:30, 5:25] = (200, 30, 30)
    (tmp_path / "empty").mkdir()
    monkeypatch.chdir(tmp_path / "empty")
    return write_png(tmp_path / "photo.png", pixels)


def run(*arguments: object) -> Result:
    return CliRunner().invoke(main, [*map(str, arguments)])


def test_words_are_grounded_with_the_mini_model(image: Path) -> None:
    done = run("ground", image, "a cat; the red ball ;")
    assert done.exit_code == 0, done.output
    assert "the mini model, which knows the mini world only" in done.stderr
    assert [line.split(":")[0] for line in done.stdout.splitlines()] == [
        "cat", "red ball", "photo_masks",
    ]  # fmt: skip
    content = json.loads(Path("photo_masks/masks.json").read_text())
    assert [row["text"] for row in content["phrases"]] == ["cat", "red ball"]
    assert Path("photo_masks/overlay.png").exists() and content["size"] == [40, 60]


def test_a_narrative_is_grounded_by_a_checkpoint(image: Path, tmp_path: Path) -> None:
    backbone = tiny_png.backbone()
    config = recipe(PngModelConfig, insertion="none", inner_product="frozen", decode=False)
    PngModel(backbone, config, (1, 2)).save(tmp_path / "mine")
    write_json(tmp_path / "mine" / TRAINING, {"data": tiny_png.DATA.model_dump(mode="json")})
    model = ("--model", backbone.folder, "--checkpoint", tmp_path / "mine", "--out", "here")
    done = run("ground", image, "a [red ball] on [grass]", *model)
    assert done.exit_code == 0, done.output
    assert json.loads(Path("here/masks.json").read_text())["narrative"] == "a red ball on grass"
    done = run("ground", image, "a red ball; the grass", *model)
    assert done.exit_code == 0, done.output
    assert json.loads(Path("here/masks.json").read_text())["narrative"] == "red ball, grass."
    done = run("ground", image, "a ball", *model, "--vocabulary", "voc")
    assert done.exit_code == 1 and "vocabulary: it is of the method text2mask" in done.stderr


def test_a_folder_is_grounded_and_what_is_left_out_is_said(image: Path) -> None:
    (image.parent / "cut.png").write_bytes(image.read_bytes()[:50])
    done = run("ground", image.parent, "a cat", "--out", "masks")
    assert done.exit_code == 0, done.output
    first, found, last = done.stdout.splitlines()
    assert first == "photo:" and found.startswith("cat: ")
    assert last == "masks: a folder per image in masks, panoptic.json, coco.json, report.json"
    assert "cut is left out: the image is cut short or corrupt" in done.stderr
    assert Path("masks/masks/photo/overlay.png").exists()


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (("ground", "no.jpg", "a cat"), "no.jpg: file: there is no such file"),
        (
            ("ground", "photo", "a cat", "--model", "no"),
            "no: model folder: there is no such folder",
        ),
        (("ground", "photo", ";"), "WORDS: phrases: there is none; say"),
        (("ground", "photo", "catt", "--vocabulary", "voc"), "did you mean"),
        (("ground", "photo", "a cat", "--device", "cuda:99"), "--device"),
        (("ground", "photo", "a cat", "--checkpoint", "no"), "no trained model lies here"),
        (("doctor", "no"), "no: root: there is no such folder"),
    ],
)
def test_what_is_wrong_is_said_without_the_code(image: Path, arguments, message: str) -> None:
    done = run(*(image if part == "photo" else part for part in arguments))
    assert done.exit_code == 1 and message in done.stderr
    assert "Traceback" not in done.output and not list(Path().iterdir())


def test_the_doctor_looks_over_a_benchmark(image: Path) -> None:
    done = run("doctor", tiny_png.benchmark().root, "--split", "train2017", "--deep")
    assert done.exit_code == 0, done.output
    assert "# Data doctor: train2017" in done.stdout and "Files that were opened" in done.stdout


def test_the_world_is_drawn(image: Path) -> None:
    done = run("world", "w", "--only", "mug19")
    assert done.exit_code == 0 and done.output.endswith("w/mug19\n"), done.output
    assert Path("w/mug19/triplets.json").exists()
    assert [path.name for path in Path("w").iterdir() if not path.name.startswith(".")] == ["mug19"]


def test_a_wheel_has_what_a_checkout_has(root: Path, tmp_path: Path, monkeypatch) -> None:
    """As pip lays it out: data files under share/, named in the RECORD."""
    tools = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["tool"]["setuptools"]
    site = tmp_path / "lib/python/site-packages"
    about = site / "diffground-0.1.0.dist-info"
    about.mkdir(parents=True)
    (about / "METADATA").write_text("Metadata-Version: 2.1\nName: diffground\nVersion: 0.1.0\n")
    rows = ["diffground/__init__.py,,"]
    for target, patterns in tools["data-files"].items():
        for file in sorted(file for pattern in patterns for file in root.glob(pattern)):
            assert target == f"share/diffground/{file.parent.relative_to(root).as_posix()}"
            (tmp_path / target).mkdir(parents=True, exist_ok=True)
            shutil.copy(file, tmp_path / target)
            rows.append(f"../../../{target}/{file.name},,")
    (about / "RECORD").write_text("\n".join(rows) + "\n")
    monkeypatch.syspath_prepend(site)
    monkeypatch.setattr(found, "__file__", str(site / "diffground/shipped.py"))
    model = found.shipped(found.MINI_MODEL)
    assert model == tmp_path / "share/diffground/data/06_models/mini-sd"
    here = root / found.MINI_MODEL
    files = {path.relative_to(here) for path in here.rglob("*") if path.is_file()}
    assert {path.relative_to(model) for path in model.rglob("*") if path.is_file()} == files
    for env in ENVIRONMENTS:
        file = f"{env}/parameters_world.yml"
        carried = (found.shipped(found.CONF) / file).exists()
        assert carried == (root / found.CONF / file).exists(), file
    with pytest.raises(InputError, match="name a folder"):
        found.shipped("data/06_models/stable-diffusion")
