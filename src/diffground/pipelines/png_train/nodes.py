"""Thin nodes: the data doctor on the training split, then the training."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffground.papers.png.config import PngConfig, PngFolders
from diffground.tracking import get_tracker

log = logging.getLogger(__name__)


def examine_training_data(coco: Path, models: Path, png: PngConfig) -> tuple[dict[str, Any], str]:
    """The doctor's findings on the training split, as JSON and as Markdown."""
    from diffground.data.png_benchmark import PngBenchmark
    from diffground.data.png_doctor import render
    from diffground.data.png_reading import examine_training_data as examine

    PngBenchmark(coco, png.splits.val, png.splits.layout)  # if it is missing, that is said now
    found = examine(coco, png.splits, png.data.max_phrases, models)
    for sentence in found["advice"]:
        log.warning("png data: %s", sentence)
    return found, render(found)


def train_png(
    folders: PngFolders, diffusion: Path, doctor: dict[str, Any], png: PngConfig
) -> tuple[Path, dict[str, Any]]:
    """Trains the variant that the parameters describe, or goes on, or finds it done.

    Returns the model's folder and what the training did.
    """
    from diffground.data.png_reading import broken_samples
    from diffground.papers.png.experiment import train_variant

    summary = train_variant(
        png,
        folders,
        png.load_backbone(diffusion),
        broken=broken_samples(doctor),
        on_log=get_tracker().log_metrics,
    )
    model = folders.models / summary["variant"]
    model.mkdir(parents=True, exist_ok=True)  # static prompting trains nothing: empty until judged
    return model, summary
