"""Thin node: the method's models are found in the catalog's folders, and asked."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffground.ground.config import GroundConfig
from diffground.papers.png.config import PngConfig, PngFolders

log = logging.getLogger(__name__)


def ground_images(
    *,
    coco: Path,
    diffusion: Path,
    models: Path,
    findings: Path,
    panoptic: Path,
    modules: Path,
    folder: Path,
    png: PngConfig,
    config: GroundConfig,
) -> tuple[Path, dict[str, Any]]:
    """Masks of what the parameters name; the folder that they are in, and the report."""
    from diffground.ground.grounding import ground
    from diffground.ground.methods import open_method, trained_narrative
    from diffground.ground.sample import first_validation_image
    from diffground.io.paths import slug
    from diffground.training.processes import chosen_device

    model, device = config.model or diffusion, chosen_device(config.device)
    if config.method == "narrative":
        folders = PngFolders(coco, models, doctor=findings, panoptic=panoptic)
        checkpoint = config.checkpoint[0] if config.checkpoint else None
        method = trained_narrative(png, folders, model, checkpoint, device)
    else:
        checkpoints = config.checkpoints(modules if config.method == "grounded" else None)
        method = open_method(
            config.method, model, checkpoints,
            vocabulary=config.vocabulary, seed=config.seed, device=device,
        )  # fmt: skip
    sample = None
    if config.source is None and config.prompt is None:
        sample = first_validation_image(coco, png.splits)
    of = config.prompt or (config.source.stem if config.source else "sample")
    made = folder / f"{config.method}-{slug(of)}"
    report = ground(config, method, made, sample)
    for found in report["grounded"]:
        told = ", ".join(f"{row['text']} {row['note']}" for row in found["phrases"])
        log.info("%s: %s", found["image"], told)
    return made, report
