"""Thin nodes: prompts, samples, their scores, a module that learns from them, what it finds.

What a node makes of several sets it hands on by their names in ``params:grounding_data``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffground.papers.grounded.data_config import GroundingDataConfig
from diffground.papers.grounded.figure_config import GroundingFigureConfig
from diffground.papers.grounded.learning_config import LearningConfig, MeasuringConfig
from diffground.tracking import get_tracker

log = logging.getLogger(__name__)


def plan_prompts(grounding_data: GroundingDataConfig) -> dict[str, Any]:
    """The attempts of every set."""
    from diffground.papers.grounded.prompts import planned

    return dict(planned(grounding_data))


def make_samples(
    prompts: dict[str, Any],
    diffusion: Path,
    segmenter: Path,
    folder: Path,
    grounding_data: GroundingDataConfig,
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Makes the samples of every set that are missing."""
    from diffground.backbone.on_demand import Frozen
    from diffground.papers.grounded.generation import make_set

    frozen = Frozen(diffusion, grounding_data)
    made = {
        name: make_set(name, attempts, frozen, segmenter, folder, grounding_data)
        for name, attempts in prompts.items()
    }
    for summary in made.values():
        log.info(
            "%s: %d batches made, %d kept", summary["folder"], summary["made"], summary["kept"]
        )
    folders = {name: folder / summary["folder"] for name, summary in made.items()}
    return folders, {name: dict(summary) for name, summary in made.items()}


def score_samples(
    samples: dict[str, Path],
    diffusion: Path,
    clip: Path,
    folder: Path,
    grounding_data: GroundingDataConfig,
) -> dict[str, Path]:
    """How good the pictures look to CLIP."""
    from diffground.backbone.on_demand import Frozen
    from diffground.papers.grounded.samples import SyntheticSet
    from diffground.papers.grounded.scoring import score_set

    frozen = Frozen(diffusion, grounding_data)
    return {
        name: folder
        / score_set(SyntheticSet.open(made), frozen, clip, folder, grounding_data)["folder"]
        for name, made in samples.items()
    }


def report_samples(
    samples: dict[str, Path], scores: dict[str, Path], grounding_data: GroundingDataConfig
) -> tuple[dict[str, Any], Any]:
    """Counts of every set, and the grid of accepted and rejected pictures, of PIL."""
    from diffground.papers.grounded.data_report import grid, report
    from diffground.papers.grounded.samples import SyntheticSet
    from diffground.papers.grounded.scoring import read_scores

    opened = {name: SyntheticSet.open(folder) for name, folder in samples.items()}
    quality = {name: read_scores(folder) for name, folder in scores.items()}
    counts = {
        name: report(one, grounding_data.choice, quality[name]) for name, one in opened.items()
    }
    for name, found in counts.items():
        log.info("%s: %d of %d attempts are taken", name, found["taken"], found["attempts"])
    get_tracker().log_metrics(
        {f"{name}/taken": float(found["taken"]) for name, found in counts.items()}
    )
    page = grid(opened, quality, grounding_data)
    return {"scale": grounding_data.scale, "sets": counts}, page


def choose_samples(
    samples: dict[str, Path], scores: dict[str, Path], grounding_data: GroundingDataConfig
) -> dict[str, Any]:
    """What is taken of every set: :class:`~diffground.papers.grounded.samples.Samples`."""
    from diffground.papers.grounded.samples import SyntheticSet
    from diffground.papers.grounded.scoring import read_scores

    choice = grounding_data.choice
    return {
        name: SyntheticSet.open(folder).chosen(choice, read_scores(scores[name]))[0]
        for name, folder in samples.items()
    }


def learn_module(
    *,
    chosen: dict[str, Any],
    diffusion: Path,
    features: Path,
    models: Path,
    data: GroundingDataConfig,
    learning: LearningConfig,
) -> tuple[Path, dict[str, Any]]:
    """Trains the module, goes on with it, or finds it done; its folder, and what was done."""
    from diffground.backbone.on_demand import Frozen
    from diffground.papers.grounded.learning import learn, lesson_sets

    frozen = Frozen(diffusion, data)
    made = learn(
        frozen, *lesson_sets(chosen), learning, models, features, on_log=get_tracker().log_metrics
    )
    best = made.training["best"]
    log.info(
        "%s: %d steps, best mIoU of validation samples %.1f at step %d",
        made.folder.name, made.training["steps"], best["class"], best["step"],
    )  # fmt: skip
    return made.folder, made.training


def find_module(
    *,
    chosen: dict[str, Any],
    diffusion: Path,
    models: Path,
    data: GroundingDataConfig,
    learning: LearningConfig,
) -> Path:
    """The module that was trained with these settings and samples."""
    from diffground.backbone.on_demand import Frozen
    from diffground.papers.grounded import learning as of_learning

    sets = of_learning.lesson_sets(chosen)
    return of_learning.find_module(Frozen(diffusion, data), *sets, learning, models)


def draw_learning(training: dict[str, Any], data: GroundingDataConfig) -> Any:
    """A figure of matplotlib: the loss, and mIoU on validation samples."""
    from diffground.papers.grounded.figures import learning_figure

    return learning_figure(training, data.scale)


def measure_module(
    module: Path,
    chosen: dict[str, Any],
    diffusion: Path,
    data: GroundingDataConfig,
    measuring: MeasuringConfig,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """mIoU by group of classes, and a few predictions of each."""
    from diffground.backbone.on_demand import Frozen
    from diffground.papers.grounded.measuring import report_measures, shown
    from diffground.papers.grounded.trained import load_module

    trained = load_module(module, Frozen(diffusion, data).model, weights=measuring.weights)
    found = report_measures(trained, chosen, measuring, data.scale, module.name)
    _tell(found)
    return found, shown(trained, chosen, measuring)


def measure_daam(
    chosen: dict[str, Any],
    diffusion: Path,
    data: GroundingDataConfig,
    measuring: MeasuringConfig,
) -> tuple[dict[str, Any], dict[str, Any]]:
    """The same of DAAM, if it is asked for, whose threshold is chosen on validation samples."""
    from diffground.backbone.on_demand import Frozen
    from diffground.papers.grounded.daam import choose_threshold
    from diffground.papers.grounded.learning import lesson_sets
    from diffground.papers.grounded.measuring import report_measures, shown

    if measuring.daam is None:
        return {}, {}
    _, validation = lesson_sets(chosen)
    daam = choose_threshold(Frozen(diffusion, data).model, validation, measuring.daam)
    found = report_measures(daam, chosen, measuring, data.scale, "daam")
    _tell(found)
    return found, shown(daam, chosen, measuring)


def draw_masks(
    chosen: dict[str, Any],
    predictions: dict[str, Any],
    daam_predictions: dict[str, Any],
    data: GroundingDataConfig,
) -> Any:
    """Pictures with the detector's masks and those that were found, of PIL."""
    from diffground.papers.grounded.figures import prediction_sheet

    found = {"module": predictions, "DAAM": daam_predictions}
    return prediction_sheet(chosen, {n: each for n, each in found.items() if each}, data.scale)


def draw_figure1(
    module: Path, diffusion: Path, data: GroundingDataConfig, figure: GroundingFigureConfig
) -> Any:
    """Pictures of prompts with their masks, by the module that was trained last, of PIL."""
    from diffground.backbone.on_demand import Frozen
    from diffground.papers.grounded.generated_figure import figure1
    from diffground.papers.grounded.generator import GroundedGenerator
    from diffground.papers.grounded.trained import load_module

    model = Frozen(diffusion, data).model
    return figure1(GroundedGenerator(load_module(module, model)), figure)


def _tell(found: dict[str, Any]) -> None:
    figures = {
        f"{found['grounder']}/{group}/miou_{kind}": scores[kind]
        for group, scores in found["groups"].items()
        for kind in ("class", "image")
        if scores[kind] is not None
    }
    for name, value in figures.items():
        log.info("%s: %.1f", name, value)
    get_tracker().log_metrics(figures)
