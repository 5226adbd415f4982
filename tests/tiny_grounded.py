"""A tiny synthetic set: a random diffusion model, and a random segmenter that finds everything.

And a tiny module for it, which is not trained.
"""

from __future__ import annotations

import sys
import tempfile
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tiny_png
import torch
from doomed import stops_after
from random_model import ROOT, TINY_XL
from recipes import recipe

from diffground.backbone import random_weights
from diffground.backbone.on_demand import Frozen
from diffground.foundation.config import FoundationRecipe
from diffground.foundation.segmenter import LABELS, build_segmenter, image_processor
from diffground.io.files import write_json
from diffground.masks.phrase_masks import describe_mask
from diffground.papers.grounded import generation
from diffground.papers.grounded.data_config import GroundingDataConfig
from diffground.papers.grounded.feature_maps import feature_maps
from diffground.papers.grounded.generation import make_set
from diffground.papers.grounded.learning_config import LearningConfig, MeasuringConfig
from diffground.papers.grounded.module_config import GroundingModuleConfig, QueryConfig
from diffground.papers.grounded.module_sizes import MODULES
from diffground.papers.grounded.prompts import Attempt, planned
from diffground.papers.grounded.samples import (
    Instance,
    Record,
    Samples,
    SyntheticSet,
    write_part,
)
from diffground.papers.grounded.trained import ModuleCard
from diffground.provenance import RECIPE, Made
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


#: Sizes of a module, for a UNet with four levels.
SIZES: dict[str, Any] = {
    "widths": (4, 6, 8, 10), "width": 16, "heads": 2, "ffn": 32, "hidden": 24, "patch": 2,
}  # fmt: skip
QUERY: dict[str, Any] = {
    "template": "x and y", "tokens": "mean", "subtract": False, "compat": "paper",
}  # fmt: skip


LEARNING: dict[str, Any] = {
    "query": QUERY,
    "loss": {"loss": "log_cosh", "compat": "paper"},
    "train": {
        "epochs": None, "steps": 60, "batch_size": 4, "learning_rate": 1e-2,
        "schedule": "constant", "evaluations": 3, "seed": 0, "mixed_precision": "no",
        "checkpoint_every": 10,
    },
    "cache": True,
}  # fmt: skip


def module(name: str = "improved", **changes: Any) -> GroundingModuleConfig:
    """One of the papers' modules at a tiny size."""
    sizes = dict(SIZES)
    if name == "iosd":
        sizes |= {"widths": (4, 6, 8), "final_width": 12}
    return GroundingModuleConfig.model_validate(MODULES[name].model_dump() | sizes | changes)


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


@cache
def turbo() -> Frozen:
    """A tiny model with SDXL's topology: three levels, two text encoders."""
    folder = Path(_FOLDERS.name) / "turbo"
    random_weights.write_random(
        folder, "tiny-xl", architecture=TINY_XL, tokenizer=ROOT / random_weights.TOKENIZER,
        dtype=torch.float32,
    )  # fmt: skip
    return Frozen(folder, config())


def card() -> ModuleCard:
    """Of a tiny module for the tiny model."""
    model, settings, data = tiny_png.backbone(), module(), config()
    return ModuleCard(
        name="own",
        module=settings,
        query=QueryConfig.model_validate(QUERY),
        diffusion=model.folder.name,
        fingerprint=model.fingerprint(),
        maps=feature_maps(model.unet, settings.features),
        text_width=model.context_dim,
        latent_stride=model.latent_stride,
        classes=("red circle",),
        size=(64, 64),
        timestep=1.0,
        generation=data.generation,
        made=Made.now(),
    )


CLASSES = ("cat", "mug")


def separable(root: Path, name: str, count: int, *, alone: bool = False) -> Samples:
    """A set whose masks can be learned: each class has a square, and a channel of the latents.

    Args:
        alone: a picture has one of the two classes, and the other is asked for as absent.
    """
    folder = root / name
    random = torch.Generator().manual_seed(len(name))
    records, tensors = [], {}
    for index in range(count):
        latent = 0.1 * torch.randn(4, 8, 8, generator=random)
        present = (CLASSES[index % 2],) if alone else CLASSES
        instances = []
        for each in present:
            top, left = torch.randint(0, 5, (2,), generator=random).tolist()
            mask = np.zeros((64, 64), bool)
            mask[8 * top : 8 * top + 32, 8 * left : 8 * left + 32] = True
            latent[CLASSES.index(each), top : top + 4, left : left + 4] += 3
            segmentation = describe_mask(mask)["segmentation"]
            instances.append(Instance(name=each, score=0.9, segmentation=segmentation))
        item = f"{name}-{index:05d}"
        records.append(
            Record(
                id=item, prompt=" and ".join(f"a {each}" for each in present), names=present,
                absent=tuple(each for each in CLASSES if each not in present), seed=index,
                kept=True, reason=None, size=(64, 64), timestep=1.0, guided=True,
                ranges=((0.0, 1.0),) * 4, instances=tuple(instances),
            )
        )  # fmt: skip
        tensors[f"{item}.latent"] = latent.half()
        tensors[f"{item}.picture"] = torch.zeros(4, 8, 8, dtype=torch.uint8)
    write_part(folder / "part.safetensors", records, tensors)
    data = config()
    write_json(
        folder / RECIPE,
        {"model": frozen().fingerprint, "generation": data.generation.key_content()},
    )
    return SyntheticSet(folder, [folder / "part.safetensors"]).chosen(data.choice)[0]


def learning(**changes: Any) -> LearningConfig:
    """A tiny training; ``train={"steps": 5}`` changes a part of it."""
    content = {"module": module(), **LEARNING}
    for name, value in changes.items():
        content[name] = {**content[name], **value} if name == "train" else value
    return LearningConfig.model_validate(content)


GROUPS = {
    "grounding": {"seen": "test_seen", "seen+unseen": "test_mixed", "unseen": "test_unseen"},
    "iosd": {"seen": "test_seen", "unseen": "test_unseen"},
}
SHORT = {"steps": 4, "evaluations": 2, "batch_size": 2}


def parameters(of: str) -> dict[str, Any]:
    """Of a short training and its measuring, for the pipelines ``grounded`` and ``iosd``."""
    sets = {
        name: {"classes": classes, "attempts": count, "draw": "random"}
        for name, classes, count in (
            ("train", "seen", 4), ("val", "seen", 2), ("test_seen", "seen", 2),
            ("test_mixed", "mixed", 2), ("test_unseen", "unseen", 2),
        )
        if name in (*GROUPS[of].values(), "train", "val")
    }  # fmt: skip
    changes: dict[str, Any] = {"sets": sets}
    lesson: dict[str, Any] = {"train": SHORT}
    if of == "iosd":
        changes |= {
            "prompts": {"asked": "one"},  # its section 3.4
            "generation": {"steps": 1, "guidance": 0.0},
        }
        query = {**QUERY, "template": "x", "tokens": "first"}
        lesson |= {"module": module("iosd"), "query": query}
    return {
        f"params:{of}_data": config(**changes),
        f"params:{of}_train": learning(**lesson),
        f"params:{of}_eval": recipe(
            MeasuringConfig, groups=GROUPS[of], batch=2, figures=1,
            daam={"thresholds": (0.3, 0.6), "batch": 2},
        ),
    }  # fmt: skip


def made(root: Path, changed: GroundingDataConfig | None = None) -> Summary:
    """Makes the set ``train`` below ``root``."""
    asked = changed or config()
    return make_set("train", attempts(asked), frozen(asked), segmenter(), root, asked)


def main() -> None:
    """``python tiny_grounded.py root diffusion segmenter attempts`` makes a set in a process.

    It waits to be killed before its third batch.
    """
    generation.generated = stops_after(2, generation.generated)
    root, diffusion, detector = map(Path, sys.argv[1:4])
    sets = {"train": {**TINY["sets"]["train"], "attempts": int(sys.argv[4])}}
    asked = config(sets=sets)
    make_set("train", attempts(asked), Frozen(diffusion, asked), detector, root, asked)


if __name__ == "__main__":
    main()
