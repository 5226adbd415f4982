"""Thin nodes: evaluation, and its two figures."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from PIL import Image

from diffground.papers.png.config import PngConfig, PngFolders
from diffground.tracking import get_tracker

log = logging.getLogger(__name__)


def locate_png(coco: Path, models: Path, features: Path, panoptic: Path) -> PngFolders:
    """The folders of every PNG experiment."""
    return PngFolders(coco=coco, models=models, features=features, panoptic=panoptic)


def evaluate_png(
    folders: PngFolders, diffusion: Path, png: PngConfig
) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """Average Recall, its per-phrase rows with the skipped narratives, and a few
    :class:`~diffground.papers.png.evaluate.Prediction`.
    """
    from diffground.papers.png.experiment import evaluate_variant
    from diffground.papers.png.trained import load_variant

    model, variant = load_variant(png, folders, png.load_backbone(diffusion))
    result, metrics = evaluate_variant(png, folders, model, variant)
    get_tracker().set_tags(
        {
            "png.protocol": png.eval.protocol,
            "png.plural_rule": png.eval.plural_rule,
            "png.variant": variant.name,
        }
    )
    log.info("%s", _sentence(metrics))
    phrases = {
        **{key: metrics[key] for key in ("variant", "protocol", "plural_rule", "head")},
        "rows": result.rows,
        "skipped": result.report.to_dict(),
    }
    return metrics, phrases, result.predictions


def evaluate_trained_png(
    folders: PngFolders, diffusion: Path, png: PngConfig, model: Path
) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """:func:`evaluate_png` of the model that was just trained."""
    return evaluate_png(replace(folders, models=model.parent), diffusion, png)


def draw_recall_curve(phrases: dict[str, Any], metrics: dict[str, Any]) -> Any:
    """A figure of matplotlib: recall over the IoU threshold, by group."""
    from diffground.metrics.average_recall import AverageRecall
    from diffground.papers.png.figures import draw_recall

    recall = AverageRecall.from_rows(phrases["rows"], phrases["protocol"], phrases["plural_rule"])
    name = f"{metrics['insertion']}, {metrics['head']} head"
    return draw_recall({name: recall}, metrics["scale"])


def draw_overlays(predictions: list[Any], png: PngConfig) -> Image.Image:
    """The kept narratives: image, truth and prediction, with each phrase's IoU."""
    from diffground.papers.png.figures import draw_comparison

    return draw_comparison(predictions, png)


def _sentence(metrics: dict[str, Any]) -> str:
    groups = ", ".join(
        f"{group} {'-' if value is None else format(value, '.1f')}"
        for group, value in metrics["ar"].items()
    )
    kind = "zero-shot" if metrics["zero_shot"] else "trained"
    return (
        f"PNG Average Recall (protocol {metrics['protocol']}, plural rule "
        f"{metrics['plural_rule']}, {metrics['scale']} scale, insertion {metrics['insertion']}, "
        f"{metrics['head']} head, {kind}, {metrics['phrases']} phrases): {groups}"
    )
