"""A thin node: the features of the narratives that ``png`` trains on and is evaluated with."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffground.papers.png.config import FeatureExtractionConfig, PngConfig

log = logging.getLogger(__name__)


def extract_png_features(
    coco: Path,
    diffusion: Path,
    features: Path,
    png: PngConfig,
    extraction: FeatureExtractionConfig,
) -> dict[str, Any]:
    """Extracts what is missing for training and validation; what was done, by their names."""
    from diffground.data.png_reading import read_split
    from diffground.papers.png.experiment import read_validation
    from diffground.papers.png.feature_extraction import extract_features
    from diffground.papers.png.features import feature_key

    backbone = png.load_backbone(diffusion)
    splits, data = png.splits, png.data
    training, _ = read_split(
        coco,
        splits.train,
        splits.layout,
        limit=splits.train_limit,
        max_phrases=data.max_phrases,
    )
    validation, _ = read_validation(png, coco)
    wanted = {
        "train": (splits.train, training, data.max_phrases),
        "val": (splits.val, validation, None),
    }
    report: dict[str, Any] = {}
    for name, (split, samples, max_phrases) in wanted.items():
        key = feature_key(
            coco,
            split,
            data,
            png.model.long_captions,
            png.model.frozen_precision,
            backbone,
            max_phrases=max_phrases,
        )
        report[name] = extract_features(backbone, samples, key, features, extraction)
        log.info("%s", _sentence(split, report[name]))
    return report


def _sentence(split: str, done: dict[str, Any]) -> str:
    state = "whole" if done["complete"] else "waiting for other shards, or for images"
    return (
        f"features of {split}: {done['narratives']} narratives, {done['images']} images, "
        f"{done['bytes'] / 1e6:.1f} MB, {done['skipped']['skipped']} skipped; made "
        f"{done['made']} of {done['items']} files in {done['seconds']} s; {state}"
    )
