"""Thin nodes: the segmenter's training, and its evaluation."""

from __future__ import annotations

import logging
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffground.errors import InputError
from diffground.papers.text2mask.config import Text2MaskConfig, Text2MaskFolders
from diffground.tracking import get_tracker

log = logging.getLogger(__name__)


def train(
    folders: Text2MaskFolders,
    diffusion: Path,
    text2mask: Text2MaskConfig,
    masks: list[dict[str, Any]],
) -> tuple[Path, dict[str, Any]]:
    """Trains on the source's pseudo masks, or goes on, or finds it done.

    Judged on the validation split meanwhile, if ``segmenter.train.evaluate_every`` asks for it.
    Returns the segmenter's folder and what the training did.
    """
    from diffground.papers.text2mask.experiment import Split
    from diffground.papers.text2mask.segmenter_training import train_segmenter

    assert masks, "the masks are made first"
    fingerprint = _fingerprint(diffusion, text2mask)
    split = Split.of(text2mask, folders, text2mask.source, fingerprint)
    if text2mask.test:  # if its list is missing, that is said before the training
        Split.of(text2mask, folders, text2mask.test, fingerprint)
    val = None
    if text2mask.val and text2mask.segmenter and text2mask.segmenter.train.evaluate_every:
        val = Split.of(text2mask, folders, text2mask.val, fingerprint)
    summary = train_segmenter(split, folders, val=val, on_log=get_tracker().log_metrics)
    return folders.models / summary["folder"], summary


def evaluate(
    folders: Text2MaskFolders,
    diffusion: Path,
    predictions: Path,
    text2mask: Text2MaskConfig,
    segmenter: Path,
    metrics: list[dict[str, Any]],
) -> dict[str, Any]:
    """The segmenter's mIoU on the validation split, beside that of its pseudo masks.

    The images of ``text2mask.test`` are labelled as well.
    """
    from diffground.papers.text2mask.experiment import Split
    from diffground.papers.text2mask.segmenter_training import (
        evaluate_segmenter,
        segmenter_figures,
    )

    folders = replace(folders, models=segmenter.parent)
    if text2mask.val is None:
        raise InputError("text2mask", "val", "is null: there is nothing to judge the segmenter on")
    fingerprint = _fingerprint(diffusion, text2mask)
    learnt = Split.of(text2mask, folders, text2mask.source, fingerprint)
    val = Split.of(text2mask, folders, text2mask.val, fingerprint)
    found = evaluate_segmenter(val, learnt, folders, predictions)
    before = next(row["dcrf"] for row in metrics if row["masks"] == val.masks.name)
    pseudo = before["miou"] if before else None
    for miou in segmenter_figures(found).values():
        log.info("DeepLabV2 on %s: mIoU %.1f, pseudo masks %s", val.name, miou, pseudo)
    get_tracker().log_metrics(segmenter_figures(found))
    if text2mask.test:
        test = Split.of(text2mask, folders, text2mask.test, fingerprint)
        labelled = evaluate_segmenter(test, learnt, folders, predictions)
        found |= {"test": {name: labelled[name] for name in ("folder", "images", "skipped")}}
    return found | {"pseudo_masks_miou": pseudo, "scale": text2mask.scale}


def _fingerprint(diffusion: Path, text2mask: Text2MaskConfig) -> str:
    from diffground.papers.text2mask.experiment import Frozen

    return Frozen(diffusion, text2mask).fingerprint
