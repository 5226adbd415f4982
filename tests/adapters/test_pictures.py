"""Pictures of README and the documentation: small, tracked, and beside what makes them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from tiny_world import SMALL

from diffground.adapters.catalog_docs import SAMPLES as SHOWN
from diffground.adapters.pictures import (
    FOLDER,
    PICTURES,
    WIDTH,
    write_pictures,
    write_samples,
)
from diffground.adapters.site.samples import SAMPLES
from diffground.errors import InputError
from diffground.reporting.small import small
from diffground.world.config import WorldConfig
from diffground.world.datasets import make_dataset


def test_readme_shows_every_picture_and_how_it_is_made(root: Path) -> None:
    readme = (root / "README.md").read_text("utf-8")
    shown = re.findall(r"!\[.+?\]\((.+?)\)", readme)
    assert sorted(shown) == sorted(f"{FOLDER.as_posix()}/{name}.png" for name in PICTURES)
    assert all(command in readme for command in PICTURES.values())
    samples = {f"sample_{name}" for name in SAMPLES}
    assert {name for several in SHOWN.values() for name, _ in several} == samples
    files = sorted((root / FOLDER).iterdir())
    assert {file.stem for file in files} == {*PICTURES, *samples}
    for file in files:
        assert 1_000 < file.stat().st_size < 160_000
        with Image.open(file) as picture:
            assert picture.width <= WIDTH


def test_pictures_are_reduced_and_look_alike() -> None:
    ramp = np.linspace(0, 255, 1520, dtype=np.uint8)
    picture = Image.fromarray(np.broadcast_to(ramp[None, :, None], (400, 1520, 3)).copy())
    reduced = small(picture, WIDTH)
    assert reduced.size == (WIDTH, 263)
    expected = np.asarray(picture.resize((WIDTH, 263))).astype(int)
    assert np.abs(np.asarray(reduced.convert("RGB")).astype(int) - expected).max() <= 4
    rare = picture.copy()
    rare.paste((230, 190, 20), (700, 200, 710, 210))  # a yellow thing stays yellow
    red, green, blue = np.asarray(small(rare, WIDTH).convert("RGB"))[135, 463].astype(int)
    assert abs(red - 230) < 12 and abs(green - 190) < 12 and abs(blue - 20) < 24
    assert small(picture.resize((300, 100)), WIDTH).size == (300, 100)


def test_what_was_not_made_is_named_with_its_command(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    with pytest.raises(
        InputError, match=r"foundation_generations.*kedro run --pipelines foundation_eval"
    ):
        write_pictures(tmp_path)
    (tmp_path / "data/08_reporting").mkdir(parents=True)
    for name in PICTURES:
        Image.new("RGB", (900, 30)).save(tmp_path / f"data/08_reporting/{name}.png")
    assert [path.name for path in write_pictures(tmp_path)] == [f"{name}.png" for name in PICTURES]


def test_samples_are_drawn_of_what_is_there(root: Path, tmp_path: Path) -> None:
    shutil.copytree(root / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    with pytest.raises(InputError, match=r"coco: not there yet; `kedro run --pipelines world`"):
        write_samples(tmp_path)
    data = tmp_path / "data/01_raw/mini"
    settings = WorldConfig.model_validate(SMALL | {"coco_panoptic": {"train": 1, "val": 2}})
    for name in SAMPLES:
        make_dataset(name, data / name, settings)
    for path in write_samples(tmp_path):
        with Image.open(path) as picture:
            colours = np.asarray(picture.convert("RGB")).reshape(-1, 3)
        assert len(np.unique(colours, axis=0)) > 50, path
