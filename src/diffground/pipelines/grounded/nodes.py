"""Thin nodes: prompts, synthetic samples, their scores, features, and what became of the attempts.

What a node makes of several sets it hands on by their names in ``params:grounding_data``.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffground.papers.grounded.data_config import GroundingDataConfig
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


def cache_features(
    samples: dict[str, Path],
    scores: dict[str, Path],
    diffusion: Path,
    folder: Path,
    grounding_data: GroundingDataConfig,
) -> dict[str, Any]:
    """Keeps the features of the samples that are taken, if a cache is asked for."""
    from diffground.backbone.on_demand import Frozen
    from diffground.papers.grounded.features import cache_features as cache_set
    from diffground.papers.grounded.samples import SyntheticSet
    from diffground.papers.grounded.scoring import read_scores

    config = grounding_data
    if config.cache is None:
        return {}
    frozen = Frozen(diffusion, config)
    made = {}
    for name, place in samples.items():
        taken, _ = SyntheticSet.open(place).chosen(config.choice, read_scores(scores[name]))
        if len(taken):
            made[name] = dict(cache_set(taken, frozen, folder, config.cache, config.work))
    return made


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
