"""A tiny synthetic set: a random diffusion model, and a random segmenter that finds everything."""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import tiny_png
import torch
from recipes import recipe

from diffground.backbone.on_demand import Frozen
from diffground.foundation.config import FoundationRecipe
from diffground.foundation.segmenter import LABELS, build_segmenter, image_processor
from diffground.papers.grounded.data_config import GroundingDataConfig
from diffground.papers.grounded.generation import make_set
from diffground.papers.grounded.prompts import Attempt, planned
from diffground.store.items import Summary

_FOLDERS = tempfile.TemporaryDirectory()  # removed when the tests end

EVERYTHING = tuple(LABELS.values())
#: The random segmenter says nothing of what is there: each class is whatever it sees.
TINY: dict[str, Any] = {
    "scale": "mini",
    "device": "cpu",
    "sets": {"train": {"classes": "seen", "attempts": 5, "draw": "random"}},
    "prompts": {
        "split": "mini1",
        "templates": ["a {} and a {}"],
        "asked": "all",
        "absent": 0,
    },
    "generation": {
        "steps": 3, "guidance": 5.0, "scheduler": None, "size": None, "batch": 2,
    },
    "detector": {
        "floor": 0.0,
        "names": {name: EVERYTHING for name in EVERYTHING},
    },
    "choice": {"least_score": 0.0, "instances": "all", "top": 1.0},
    "figures": 2,
}  # fmt: skip


def config(**changes: Any) -> GroundingDataConfig:
    """The tiny sets; ``prompts={"absent": 1}`` changes a part of a section."""
    content = dict(TINY)
    for name, value in changes.items():
        nested = isinstance(value, dict) and isinstance(content.get(name), dict)
        content[name] = {**content[name], **value} if nested and name != "sets" else value
    return recipe(GroundingDataConfig, **content)


def attempts(config: GroundingDataConfig, name: str = "train") -> list[Attempt]:
    """Those of a set."""
    return planned(config)[name]


@cache
def segmenter() -> Path:
    """A folder of a Mask2Former with random weights."""
    torch.manual_seed(0)
    settings = recipe(FoundationRecipe).segmenter.model_copy(
        update={"stem": 8, "channels": (8, 8, 16, 16), "width": 32, "heads": 2, "queries": 6}
    )
    folder = Path(_FOLDERS.name) / "segmenter"
    build_segmenter(settings).save_pretrained(folder)
    image_processor(64).save_pretrained(folder)
    return folder


def frozen(changed: GroundingDataConfig | None = None) -> Frozen:
    """The tiny model."""
    return Frozen(tiny_png.backbone().folder, changed or config())


def made(root: Path, changed: GroundingDataConfig | None = None) -> Summary:
    """Makes the set ``train`` below ``root``."""
    asked = changed or config()
    return make_set("train", attempts(asked), frozen(asked), segmenter(), root, asked)


def main() -> None:
    """``python tiny_grounded.py root diffusion segmenter attempts`` makes a set in a process."""
    root, diffusion, detector = map(Path, sys.argv[1:4])
    sets = {"train": {**TINY["sets"]["train"], "attempts": int(sys.argv[4])}}
    asked = config(sets=sets)
    make_set("train", attempts(asked), Frozen(diffusion, asked), detector, root, asked)


if __name__ == "__main__":
    main()
