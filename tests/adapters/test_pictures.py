"""README's pictures: small, tracked, and beside the commands that make them."""

from __future__ import annotations

import re
import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image

from diffground.adapters.pictures import FOLDER, PICTURES, WIDTH, small, write_pictures
from diffground.errors import InputError


def test_readme_shows_every_picture_and_how_it_is_made(root: Path) -> None:
    readme = (root / "README.md").read_text("utf-8")
    shown = re.findall(r"!\[.+?\]\((.+?)\)", readme)
    assert sorted(shown) == sorted(f"{FOLDER.as_posix()}/{name}.png" for name in PICTURES)
    for name, command in PICTURES.items():
        assert command in readme
        file = root / FOLDER / f"{name}.png"
        assert 1_000 < file.stat().st_size < 160_000
        with Image.open(file) as picture:
            assert picture.width <= WIDTH


def test_pictures_are_reduced_and_look_alike() -> None:
    ramp = np.linspace(0, 255, 1520, dtype=np.uint8)
    picture = Image.fromarray(np.broadcast_to(ramp[None, :, None], (400, 1520, 3)).copy())
    reduced = small(picture)
    assert reduced.size == (WIDTH, 263)
    expected = np.asarray(picture.resize((WIDTH, 263))).astype(int)
    assert np.abs(np.asarray(reduced.convert("RGB")).astype(int) - expected).max() <= 4
    rare = picture.copy()
    rare.paste((230, 190, 20), (700, 200, 710, 210))  # a yellow thing stays yellow
    red, green, blue = np.asarray(small(rare).convert("RGB"))[135, 463].astype(int)
    assert abs(red - 230) < 12 and abs(green - 190) < 12 and abs(blue - 20) < 24
    assert small(picture.resize((300, 100))).size == (300, 100)


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
