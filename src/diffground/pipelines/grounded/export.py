"""Thin nodes: synthetic sets as a dataset for others, and a segmenter that learns from it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffground.errors import InputError
from diffground.papers.grounded.data_config import GroundingDataConfig
from diffground.papers.grounded.export_config import ExportConfig, TeachingConfig
from diffground.papers.text2mask.config import Text2MaskConfig
from diffground.tracking import get_tracker

log = logging.getLogger(__name__)


def export_samples(
    chosen: dict[str, Any],
    scores: dict[str, Path],
    diffusion: Path,
    folder: Path,
    grounding_data: GroundingDataConfig,
    grounding_export: ExportConfig,
) -> tuple[Path, dict[str, Any]]:
    """Writes what is missing of the dataset."""
    from diffground.backbone.on_demand import Frozen
    from diffground.papers.grounded.classes import ClassSplit
    from diffground.papers.grounded.export import export
    from diffground.papers.grounded.export_notes import Part
    from diffground.papers.grounded.scoring import read_scores

    parts: dict[str, Part] = {}
    for split, name in grounding_export.splits.items():
        if name not in chosen:
            reason = f"there is no set {name!r}; there are {', '.join(chosen)}"
            raise InputError("grounding_export", f"splits.{split}", reason)
        parts[split] = Part(chosen[name], read_scores(scores[name]))
    classes = ClassSplit.of(grounding_data.prompts.split)
    frozen = Frozen(diffusion, grounding_data)
    summary = export(parts, classes, frozen, folder, grounding_export)
    log.info("%s: %d items made, %d kept", summary["folder"], summary["made"], summary["kept"])
    return folder / summary["folder"], dict(summary)


def read_lesson(
    exported: Path,
    voc2012: Path,
    coco2014: Path,
    images: Path,
    masks: Path,
    grounding_data: GroundingDataConfig,
    text2mask: Text2MaskConfig,
) -> Any:
    """What is learned from, and what is judged on, with masks of the seen classes alone."""
    from diffground.papers.grounded.classes import ClassSplit
    from diffground.papers.grounded.teaching import Lesson

    if text2mask.val is None:
        raise InputError("text2mask", "val", "is null: there is nothing to judge the segmenter on")
    roots = {"voc2012": voc2012, "coco2014": coco2014, "folder": images}
    split = ClassSplit.of(grounding_data.prompts.split)
    return Lesson.read(exported, roots, split, text2mask.source, text2mask.val, masks)


def teach(
    lesson: Any, models: Path, text2mask: Text2MaskConfig, grounding_teaching: TeachingConfig
) -> tuple[dict[str, Path], dict[str, Any]]:
    """Trains and judges a segmenter of every teacher and seed, and the control."""
    from diffground.papers.grounded.teaching import TEACHERS, judge, report
    from diffground.training.processes import chosen_device

    if text2mask.segmenter is None:
        raise InputError("text2mask", "segmenter", "its settings are null: nothing can be trained")
    device = chosen_device(text2mask.device)
    found: dict[str, dict[str, Any]] = {}
    for teacher in TEACHERS:
        for seed in grounding_teaching.seeds[: 1 if teacher == "background" else None]:
            settings = grounding_teaching.settings(text2mask.segmenter, seed)
            found[f"{teacher}-{seed}"] = judge(teacher, lesson, settings, models, device=device)
    made = report(found.values(), text2mask.scale)
    for teacher, figures in made["means"].items():
        log.info("DeepLabV2, taught by %s: mIoU %.1f", teacher, figures["miou"])
        get_tracker().log_metrics({f"teaching/{teacher}/{n}": v for n, v in figures.items()})
    folders = {name: models / one["folder"] for name, one in found.items() if one["folder"]}
    return folders, made
