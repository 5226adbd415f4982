"""A tiny experiment with personal objects: a random diffusion model and a few mini scenes."""

from __future__ import annotations

import shutil
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tiny_png
import torch
from PIL import Image
from recipes import recipe
from tiny_world import SMALL

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.on_demand import Frozen
from diffground.backbone.personal import PersonalToken
from diffground.data.mug19 import Mug19
from diffground.papers.personalized.config import PersonalizedConfig
from diffground.papers.personalized.scenes import Scenes
from diffground.world.config import WorldConfig
from diffground.world.mug19 import make_mug19

_FOLDERS = tempfile.TemporaryDirectory()  # removed when the tests end

#: The tiny tokenizer has a token per letter, and rows of its self-attention hardly differ.
LOCALISER: dict[str, Any] = {
    "lead": "a",
    "doubt_below": 0.0,
    "attention": {"compat": "paper", "long_side": 128, "timestep": 100, "sharpen": 8.0},
    "segments": {"segments": "asked", "least": 0.0, "proximity": 0.5},
}
LEARNING: dict[str, Any] = {
    "start": "word",
    "prior": None,
    "train": {"max_steps": 2, "batch_size": 1, "checkpoint_every": 1},
}
TINY: dict[str, Any] = {
    "scale": "mini",
    "precision": "float32",
    "device": "cpu",
    "limit": 2,
    "learning": LEARNING,
    "localiser": LOCALISER,
    "figures": 2,
}


def config(**changes: Any) -> PersonalizedConfig:
    """The tiny experiment; ``localiser={"read": "content"}`` changes a part of a section."""
    content = dict(TINY)
    for name, value in changes.items():
        nested = isinstance(value, dict) and isinstance(content.get(name), dict)
        content[name] = {**content[name], **value} if nested else value
    return recipe(PersonalizedConfig, **content)


@cache
def world() -> Path:
    """Six scenes with a picture of each: plain ones, a semantic and a visual distractor."""
    folder = Path(_FOLDERS.name) / "mug19"
    counts = {**SMALL["mug19"], "scenes": 6, "views": 1}
    make_mug19(folder, WorldConfig.model_validate(SMALL | {"mug19": counts}))
    return folder


def scenes(folder: Path | None = None, limit: int | None = 2) -> Scenes:
    """Pictures of the tiny world, or of a copy."""
    return Scenes.of(Mug19.read(folder or world()), limit)


def frozen() -> Frozen:
    """The tiny model."""
    return Frozen(tiny_png.backbone().folder, config())


def token(model: FrozenDiffusion, seed: int = 0, name: str = "<new1>") -> PersonalToken:
    """A token with a random embedding, that adds to keys of the cross-attention."""
    random = torch.Generator().manual_seed(seed)
    deltas = {
        name: 0.5 * torch.randn(parameter.shape, generator=random)
        for name, parameter in model.unet.named_parameters()
        if name.endswith("attn2.to_k.weight")
    }
    embedding = torch.randn(tiny_png.TEXT, generator=random)
    return PersonalToken(name, "mug", (embedding,), deltas, model.fingerprint())


def photographed(folder: Path) -> Path:
    """The tiny world's Mug19 at the paper's sizes: scenes of 1137 x 640, items of 640 x 640."""
    shutil.copytree(world(), folder)
    for path in sorted(folder.rglob("*.*")):
        if path.suffix in (".jpg", ".png"):
            size = (640, 640) if path.parts[-3] == "items" else (1137, 640)
            with Image.open(path) as picture:
                kind = Image.Resampling.NEAREST if path.suffix == ".png" else None
                picture.resize(size, kind).save(path)
    (folder / "manifest.json").unlink()
    return folder
