"""A thin node: the ablation over insertions and seeds."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffground.png.experiment import PngConfig
from diffground.png.insertion import InsertionConfig, run_insertion
from diffground.png.splits import broken_samples
from diffground.reporting.run_log import code_version
from diffground.reporting.tables import render
from diffground.tracking import get_tracker

log = logging.getLogger(__name__)


def run_insertion_ablation(
    coco: Path,
    diffusion: Path,
    models: Path,
    doctor: dict[str, Any],
    png: PngConfig,
    ablation: InsertionConfig,
) -> list[dict[str, Any]]:
    """The result table, rows that are finished not run again."""
    table = run_insertion(
        png,
        ablation,
        coco,
        png.load_backbone(diffusion),
        models,
        broken=broken_samples(doctor),
        on_log=get_tracker().log_metrics,
        commit=code_version(Path(__file__).parent)["git.commit"],
    )
    log.info("%s", render(table))
    return [table.model_dump(mode="json")]
