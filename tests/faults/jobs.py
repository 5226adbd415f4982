"""The long jobs of the four papers at a tiny size, as ``kedro run`` plays them over a folder.

A home is a folder with what a job is given, where the configuration says that it lies, and with
what it makes of it::

    <home>/data/01_raw/mini/...   datasets
           data/06_models/mini-*  frozen models, random and tiny
           data/...               what the job makes, where the catalog says
           mlflow.db, mlruns/     the run log
"""

from __future__ import annotations

import os
import random
import shutil
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import cache
from pathlib import Path
from typing import Any

import numpy as np
import tiny_foundation
import tiny_grounded
import tiny_personalized
import tiny_png
import tiny_text2mask
import torch
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner
from recipes import recipe
from tiny_world import SMALL

from diffground import provenance, tracking
from diffground.adapters.config_loader import LOADER_ARGS, ProjectConfigLoader
from diffground.adapters.hooks import InputsHook
from diffground.adapters.run_log import MlflowTracker
from diffground.adapters.run_store import open_store
from diffground.io.files import write_sums
from diffground.papers.grounded.export_config import ExportConfig
from diffground.papers.grounded.figure_config import GroundingFigureConfig
from diffground.papers.png.config import FeatureExtractionConfig
from diffground.pipelines import foundation, grounded, personalized, png, text2mask
from diffground.shipped import shipped
from diffground.store.manifest import write_manifest
from diffground.world.config import WorldConfig

ROOT = Path(__file__).resolve().parents[2]
RAW, MODELS = Path("data/01_raw/mini"), Path("data/06_models")
STORE = "sqlite:///mlflow.db"

Prepare = Callable[[Path], None]  # fills a folder


@dataclass(frozen=True)
class Job:
    """A pipeline, its settings, and what it is given, by its place in a home."""

    pipeline: Callable[[], Pipeline]
    params: Callable[[], dict[str, Any]]
    given: Mapping[Path, Prepare]


def prepare(job: str, home: Path) -> None:
    """Makes a home in which ``job`` can run."""
    for place, fill in JOBS[job].given.items():
        (home / place).parent.mkdir(parents=True, exist_ok=True)
        fill(home / place)
    open_store(STORE, home)


def copied(stock: Path, home: Path) -> Path:
    """Another home with the same in it, down to the dates of its files."""
    return Path(shutil.copytree(stock, home))


def play(job: str, home: Path) -> None:
    """Runs a job to its end, or goes on with it, and logs it."""
    os.chdir(home)
    # As other processes begin: what rests on the numbers that happen to be drawn is seen.
    for seed in (random.seed, np.random.seed, torch.manual_seed):
        seed(os.getpid())
    one = JOBS[job]
    pipeline, params = one.pipeline(), one.params()
    catalog = DataCatalog.from_config(_entries(home))
    for name, value in params.items():
        catalog[name] = MemoryDataset(value)
    log = MlflowTracker.start(uri=STORE, experiment="faults", name=job, project=home)
    tracking.set_tracker(log)
    status = "FAILED"
    try:
        InputsHook().before_pipeline_run(pipeline, catalog)
        SequentialRunner().run(pipeline, catalog)
        status = "FINISHED"
    finally:
        tracking.set_tracker(None)
        log.end(status)


@cache
def _catalog() -> dict[str, Any]:
    """As the mini environment has it."""
    return dict(ProjectConfigLoader(str(ROOT / "conf"), env="mini", **LOADER_ARGS)["catalog"])


def _entries(home: Path) -> dict[str, Any]:
    """The same, below a home."""
    return {
        name: entry | {"filepath": str(home / entry["filepath"])} if "filepath" in entry else entry
        for name, entry in _catalog().items()
    }


def warm() -> None:
    """Imports and makes what all jobs need, and asks once what takes time: forks have it then."""
    import diffground.data.png_doctor
    import diffground.papers.grounded.export
    import diffground.papers.personalized.experiment
    import diffground.papers.png.experiment
    import diffground.papers.text2mask.segmenter_training  # noqa: F401

    torch.set_num_threads(1)
    provenance.commit()
    _catalog()
    # They lie in a folder that forks share, where two could not make the same one.
    for make in (tiny_png.backbone, tiny_grounded.turbo, tiny_grounded.segmenter,
                 tiny_text2mask.world, tiny_personalized.world):  # fmt: skip
        make()


def _copy(source: Callable[[], Path]) -> Prepare:
    """A model with checksums, as the shipped ones come."""

    def fill(folder: Path) -> None:
        shutil.copytree(source(), folder)
        write_sums(folder)

    return fill


def _world(source: Callable[[], Path]) -> Prepare:
    """A dataset that is whole by its manifest."""

    def fill(folder: Path) -> None:
        shutil.copytree(source(), folder)
        write_manifest(folder, {"size": "tiny"})

    return fill


def _coco(folder: Path) -> None:
    tiny_png.make_benchmark(folder)
    write_manifest(folder, {"size": "tiny"})


def _diffusion() -> Path:
    return tiny_png.backbone().folder


SD = {MODELS / "mini-sd": _copy(_diffusion)}
JUDGES = {
    MODELS / "mini-segmenter": _copy(tiny_grounded.segmenter),
    MODELS / "mini-clip": _copy(lambda: shipped("data/06_models/mini-clip")),
}
FIGURE = {
    "scale": "mini", "seed": 0, "rows": [{"prompt": "a photo of a mug", "classes": ["mug"]}],
}  # fmt: skip


def _png() -> dict[str, Any]:
    train = {"max_steps": 6, "batch_size": 2, "checkpoint_every": 2, "log_every": 2}
    settings = tiny_png.config(
        train={**train, "evaluate_every": 3}, eval={"batch_size": 3, "overlays": 2}
    )
    extraction = recipe(FeatureExtractionConfig, num_workers=0, block_size=2)
    return {"params:png": settings, "params:feature_extraction": extraction}


def _text2mask() -> dict[str, Any]:
    train = tiny_text2mask.TINY["segmenter"]["train"] | {"checkpoint_every": 1}
    return {"params:text2mask": tiny_text2mask.config(segmenter={"train": train})}


def _grounded(of: str) -> dict[str, Any]:
    figure = GroundingFigureConfig.model_validate(FIGURE)
    export = recipe(ExportConfig).model_copy(update={"splits": {"train": "train"}})
    params = tiny_grounded.parameters(of)
    return {**params, "params:grounding_figure": figure, "params:grounding_export": export}


def _foundation() -> dict[str, Any]:
    return {
        "params:foundation": tiny_foundation.RECIPE,
        "params:foundation_quality": tiny_foundation.QUALITY,
        "params:world": WorldConfig.model_validate(SMALL),
    }


def _trained_models() -> Pipeline:
    """The mini models without the card, which says how good they are."""
    return foundation.create_pipeline(["training"]).to_outputs(
        "mini_clip", "mini_vit", "mini_segmenter", "mini_turbo"
    )


JOBS: dict[str, Job] = {
    "png": Job(
        lambda: png.create_pipeline(["features", "train", "evaluate"]),
        _png,
        {**SD, RAW / "coco": _coco},
    ),
    "text2mask": Job(
        lambda: text2mask.create_pipeline(["maps", "masks", "segmenter"]),
        _text2mask,
        {
            **SD,
            RAW / "voc2012": _world(lambda: tiny_text2mask.world() / "voc2012"),
            RAW / "coco2014": _world(lambda: tiny_text2mask.world() / "coco2014"),
        },
    ),
    "personalized": Job(
        lambda: personalized.create_pipeline(["scenes", "method"]),
        lambda: {"params:personalized": tiny_personalized.config()},
        {**SD, RAW / "mug19": _world(tiny_personalized.world)},
    ),
    "grounded": Job(
        lambda: grounded.create_pipeline(["data", "train", "evaluate", "figure", "export"]),
        lambda: _grounded("grounding"),
        {**SD, **JUDGES},
    ),
    "iosd": Job(
        lambda: grounded.create_pipeline(["iosd_data", "iosd_train", "iosd_evaluate"]),
        lambda: _grounded("iosd"),
        {MODELS / "mini-sdxl-turbo": _copy(lambda: tiny_grounded.turbo().folder), **JUDGES},
    ),
    "foundation": Job(_trained_models, _foundation, {}),
}
