"""A tiny model with random weights, and photos of some thing."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
import torch
from PIL import Image
from random_model import ROOT

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.random_weights import TOKENIZER, write_random


@pytest.fixture(scope="session")
def tiny_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("models") / "tiny"
    return write_random(folder, "tiny", tokenizer=ROOT / TOKENIZER, dtype=torch.float32)


@pytest.fixture(scope="session")
def tiny(tiny_folder: Path) -> FrozenDiffusion:
    return FrozenDiffusion.from_pretrained(tiny_folder)


@pytest.fixture(scope="session")
def photos(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """Of different sizes and orientations, one of them turned by its EXIF data."""
    folder = tmp_path_factory.mktemp("photos")
    rng = np.random.default_rng(0)
    files = []
    for number, (height, width) in enumerate([(64, 64), (90, 40), (33, 200), (128, 96)]):
        coarse = Image.fromarray(rng.integers(0, 255, (4, 4, 3), np.uint8))
        image, exif = coarse.resize((width, height)), Image.Exif()
        exif[0x0112] = 6 if number == 3 else 1
        files.append(folder / f"{number}.jpg")
        image.save(files[-1], exif=exif)
    return files


@pytest.fixture(scope="session")
def prior(tmp_path_factory: pytest.TempPathFactory) -> Path:
    return tmp_path_factory.mktemp("prior")
