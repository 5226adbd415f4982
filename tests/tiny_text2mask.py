"""A tiny experiment: a random diffusion model, and a handful of the mini world's scenes."""

from __future__ import annotations

import tempfile
from dataclasses import replace
from functools import cache
from itertools import cycle, islice
from pathlib import Path
from typing import Any

import tiny_png
from recipes import recipe
from tiny_world import SMALL

from diffground.backbone.on_demand import Frozen
from diffground.papers.text2mask.config import Text2MaskConfig
from diffground.papers.text2mask.keys import Split
from diffground.papers.text2mask.tables_config import Text2MaskTablesConfig
from diffground.world.coco_segmentation import make_coco2014
from diffground.world.config import WorldConfig
from diffground.world.voc import make_voc2012

_FOLDERS = tempfile.TemporaryDirectory()  # removed when the tests end

TINY: dict[str, Any] = {
    "scale": "mini",
    "precision": "float32",
    "device": "cpu",
    "vocabulary": "mini",
    "source": {"dataset": "voc2012", "split": "train_aug"},
    "val": {"dataset": "voc2012", "split": "val"},
    # The tiny tokenizer has a token per letter: background words would need many prompts.
    "query": {"lead": "a", "background": False, "synonyms": False},
    "attention": {"compat": "paper", "long_side": 64, "timestep": 100},
    "masks": {"threshold": 0.5, "crf": {"iterations": 2}},
    "work": {"workers": 0},
    "segmenter": {
        "network": {
            "init": "random",
            "shape": {
                "layer_type": "basic",
                "depths": [1, 1],
                "hidden_sizes": [8, 8],
                "embedding_size": 8,
            },
            "stem_pooling": False,
            "output_stride": 4,
            "rates": [1, 2],
            "scales": [1.0],
            "batch_norm": "trained",
        },
        "crop": 32,
        "train": {"max_steps": 3, "batch_size": 2, "learning_rate": 1e-3, "log_every": 1},
    },
    "figures": 2,
}


def config(**changes: Any) -> Text2MaskConfig:
    """The tiny experiment; ``attention={"noises": 2}`` changes a part of a section."""
    content = dict(TINY)
    for name, value in changes.items():
        nested = isinstance(value, dict) and isinstance(content.get(name), dict)
        content[name] = {**content[name], **value} if nested else value
    return recipe(Text2MaskConfig, **content)


def tables_config(**changes: Any) -> Text2MaskTablesConfig:
    """Tables of the tiny experiment, without COCO's rows and without curves."""
    return recipe(Text2MaskTablesConfig, **{"coco": None, "sweeps": {}, **changes})


@cache
def world() -> Path:
    """Six images of train, four more of train_aug, three of val, two of test; COCO's 5 and 3."""
    root = Path(_FOLDERS.name)
    settings = WorldConfig.model_validate(SMALL)
    make_voc2012(root / "voc2012", settings)
    make_coco2014(root / "coco2014", settings)
    return root


def folders(root: Path, data: Path | None = None) -> dict[str, Any]:
    """The tiny world's data, or a copy's, and everything else below a test's own folder."""
    data = world() if data is None else data
    roots = {"voc2012": data / "voc2012", "coco2014": data / "coco2014", "folder": data / "images"}
    return {"data": roots, **{name: root / name for name in ("maps", "masks", "models")}}


def frozen(seed: int = 0) -> Frozen:
    """The tiny model."""
    return Frozen(tiny_png.backbone(seed).folder, config())


def split(
    root: Path, data: Path | None = None, part: str = "source", model: int = 0, **changes: Any
) -> Split:
    """A part of the tiny experiment, of a model of some seed."""
    settings, where = config(**changes), folders(root, data)
    read = Split.read(settings, where["data"], getattr(settings, part))
    return read.mapped(frozen(model).fingerprint, where["maps"]).masked(where["masks"])


def many(root: Path, count: int, **changes: Any) -> Split:
    """So many images: those of the tiny experiment over and over, each time under another name."""
    one = split(root, **changes)
    found = islice(enumerate(cycle(one.samples)), count)
    own = (replace(s, id=f"i{n:06d}", image_path=Path(str(s.image_path))) for n, s in found)
    return replace(one, samples=tuple(own))
