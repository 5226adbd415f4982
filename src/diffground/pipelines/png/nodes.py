"""Thin nodes: narratives, doctor, features, training, evaluation with its figures."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from PIL import Image

from diffground.papers.png.config import FeatureExtractionConfig, PngConfig, PngFolders
from diffground.tracking import get_tracker

log = logging.getLogger(__name__)

Narratives = Any  # of diffground.data.png_reading, which brings in torch


def read_training_narratives(coco: Path, png: PngConfig) -> Narratives:
    """What a model is trained on."""
    from diffground.papers.png.experiment import read_training

    return read_training(png, coco)


def read_validation_narratives(coco: Path, png: PngConfig) -> Narratives:
    """What it is measured on."""
    from diffground.papers.png.experiment import read_validation

    return read_validation(png, coco)


def examine_training_data(coco: Path, folder: Path, png: PngConfig) -> tuple[dict[str, Any], str]:
    """The doctor's findings on the training split, as JSON and as Markdown."""
    from diffground.data.png_doctor import render
    from diffground.data.png_reading import examine_training_data as examine

    found = examine(coco, png.splits, png.data.max_phrases, folder)
    for sentence in found["advice"]:
        log.warning("png data: %s", sentence)
    return found, render(found)


def extract_features(
    training: Narratives,
    validation: Narratives,
    diffusion: Path,
    folder: Path,
    png: PngConfig,
    extraction: FeatureExtractionConfig,
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Extracts what is missing for training and validation; their folders, and what was done."""
    from diffground.papers.png.feature_extraction import extract_features as extract
    from diffground.papers.png.features import feature_key

    backbone = png.load_backbone(diffusion)
    report: dict[str, Any] = {}
    for name, read in {"train": training, "val": validation}.items():
        key = feature_key(png, read, backbone)
        report[name] = extract(backbone, read.samples, key, folder, extraction)
        log.info("%s", _done(read.split, report[name]))
    return {name: folder / done["folder"] for name, done in report.items()}, report


def train_png(
    *,
    training: Narratives,
    validation: Narratives,
    doctor: dict[str, Any],
    diffusion: Path,
    features: Path,
    findings: Path,
    panoptic: Path,
    models: Path,
    png: PngConfig,
) -> tuple[Path, dict[str, Any]]:
    """Trains the variant that the parameters describe, or goes on, or finds it done.

    Returns the model's folder and what the training did.
    """
    from diffground.data.png_reading import broken_samples
    from diffground.papers.png.experiment import train_variant
    from diffground.papers.png.keys import Variant

    folders = PngFolders(training.coco, models, features, findings, panoptic)
    variant = Variant.of(png, folders, png.load_backbone(diffusion))
    summary = train_variant(
        variant,
        broken=broken_samples(doctor),
        on_log=get_tracker().log_metrics,
        narratives=training,
        validation=validation,
    )
    return variant.folder, summary


def find_png_model(
    coco: Path, diffusion: Path, models: Path, findings: Path, panoptic: Path, png: PngConfig
) -> Path:
    """The model that was trained with these settings; zero-shot ones need no training."""
    from diffground.papers.png.keys import Variant
    from diffground.papers.png.trained import find_variant

    folders = PngFolders(coco, models, doctor=findings, panoptic=panoptic)
    return find_variant(Variant.of(png, folders, png.load_backbone(diffusion)))


def evaluate_png(
    model: Path, validation: Narratives, diffusion: Path, features: Path, png: PngConfig
) -> tuple[dict[str, Any], dict[str, Any], list[Any]]:
    """Average Recall, its per-phrase rows with the skipped narratives, and a few
    :class:`~diffground.papers.png.evaluate.Prediction`.
    """
    from diffground.papers.png.experiment import evaluate_variant
    from diffground.papers.png.keys import Variant
    from diffground.papers.png.trained import load_variant

    folders = PngFolders(validation.coco, model.parent, features)
    variant = Variant.found(model, png, folders, png.load_backbone(diffusion))
    result, metrics = evaluate_variant(variant, load_variant(variant), validation)
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


def draw_recall_curve(phrases: dict[str, Any], metrics: dict[str, Any]) -> Any:
    """A figure of matplotlib: recall over the IoU threshold, by group."""
    from diffground.metrics.average_recall import AverageRecall
    from diffground.reporting.curves import recall_curves

    recall = AverageRecall.from_rows(phrases["rows"], phrases["protocol"], phrases["plural_rule"])
    name = f"{metrics['insertion']}, {metrics['head']} head"
    return recall_curves({name: recall}, metrics["scale"])


def draw_overlays(predictions: list[Any], png: PngConfig) -> Image.Image:
    """The kept narratives: image, truth and prediction, with each phrase's IoU."""
    from diffground.papers.png.figures import draw_comparison

    return draw_comparison(predictions, png)


def _done(split: str, done: dict[str, Any]) -> str:
    state = "whole" if done["complete"] else "waiting for other shards, or for images"
    return (
        f"features of {split}: {done['narratives']} narratives, {done['images']} images, "
        f"{done['bytes'] / 1e6:.1f} MB, {done['skipped']['skipped']} skipped; made "
        f"{done['made']} of {done['items']} files in {done['seconds']} s; {state}"
    )


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
