"""Thin nodes: samples, maps, pseudo masks, their mIoU and Figure 4, and the segmenter.

What a node makes of several splits it hands on by their part in the experiment: ``source``, ``val``
and ``test``, as ``params:text2mask`` calls them.
"""

from __future__ import annotations

import logging
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from diffground.errors import InputError
from diffground.papers.text2mask.config import Text2MaskConfig
from diffground.tracking import get_tracker

if TYPE_CHECKING:
    from diffground.papers.text2mask.keys import Split

log = logging.getLogger(__name__)


def read_splits(
    voc2012: Path, coco2014: Path, images: Path, text2mask: Text2MaskConfig
) -> dict[str, Any]:
    """The samples of the source, of validation and of test, as far as they are asked for."""
    from diffground.papers.text2mask.keys import Split

    roots = {"voc2012": voc2012, "coco2014": coco2014, "folder": images}
    asked = {"source": text2mask.source, "val": text2mask.val, "test": text2mask.test}
    return {
        part: Split.read(text2mask, roots, source)
        for part, source in asked.items()
        if source is not None
    }


def aggregate(
    splits: dict[str, Any], diffusion: Path, folder: Path, text2mask: Text2MaskConfig
) -> tuple[dict[str, Path], list[dict[str, Any]]]:
    """Makes the maps of the source and of the validation split, or finds them made."""
    from diffground.backbone.on_demand import Frozen
    from diffground.papers.text2mask.experiment import aggregate as aggregate_split

    frozen = Frozen(diffusion, text2mask)
    maps: dict[str, Path] = {}
    reports = []
    for part in ("source", "val"):
        if part not in splits:
            continue
        split = splits[part].under(text2mask).mapped(frozen.fingerprint, folder)
        report = aggregate_split(split, frozen)
        log.info(
            "%s: %d maps made, %d kept, %d images skipped",
            report["folder"],
            report["made"],
            report["kept"],
            report["skipped"]["skipped"] + report["unusable"]["skipped"],
        )
        maps[part] = split.maps
        reports.append({"split": split.name, **report})
    return maps, reports


def label(
    splits: dict[str, Any], maps: dict[str, Path], folder: Path, text2mask: Text2MaskConfig
) -> tuple[dict[str, Path], list[dict[str, Any]]]:
    """Makes the pseudo masks of what was mapped, or finds them made."""
    from diffground.papers.text2mask.experiment import label as label_split

    masks, reports = {}, []
    for part, made in maps.items():
        split = splits[part].under(text2mask, maps=made).masked(folder)
        reports.append({"split": split.name, **label_split(split)})
        masks[part] = split.masks
    return masks, reports


def measure(
    splits: dict[str, Any], masks: dict[str, Path], text2mask: Text2MaskConfig
) -> list[dict[str, Any]]:
    """mIoU of the masks, before the CRF and after."""
    from diffground.papers.text2mask.experiment import mask_figures
    from diffground.papers.text2mask.experiment import measure as measure_split

    found = []
    for part, made in masks.items():
        result = measure_split(splits[part].under(text2mask, masks=made))
        found.append(result)
        figures = mask_figures(result)
        for name, miou in figures.items():
            log.info("%s, %s: mIoU %.1f", result["masks"], name.rpartition("/")[2], miou)
        get_tracker().log_metrics(figures)
    return found


def draw_masks(
    splits: dict[str, Any],
    maps: dict[str, Path],
    masks: dict[str, Path],
    text2mask: Text2MaskConfig,
) -> Image.Image:
    """Figure 4, of the source."""
    from diffground.papers.text2mask.figures import mask_sheet

    made = {"maps": maps["source"], "masks": masks["source"]}
    split: Split = splits["source"].under(text2mask, **made)
    return Image.fromarray(mask_sheet(split, text2mask.figures))


def train(
    splits: dict[str, Any], masks: dict[str, Path], folder: Path, text2mask: Text2MaskConfig
) -> tuple[Path, dict[str, Any]]:
    """Trains on the source's pseudo masks, or goes on, or finds it done.

    Judged on the validation split meanwhile, if ``segmenter.train.evaluate_every`` asks for it.
    Returns the segmenter's folder and what the training did.
    """
    from diffground.papers.text2mask.segmenter_training import train_segmenter

    split = splits["source"].under(text2mask, masks=masks["source"])
    val = splits.get("val")
    summary = train_segmenter(split, folder, val=val, on_log=get_tracker().log_metrics)
    return folder / summary["folder"], summary


def predict(
    splits: dict[str, Any], segmenter: Path, folder: Path, text2mask: Text2MaskConfig
) -> tuple[dict[str, Path], dict[str, Any]]:
    """The segmenter's labels of the validation split, and of the test split if there is one.

    Beside the folders, what was labelled, and how well.
    """
    from diffground.papers.text2mask.segmenter_training import evaluate_segmenter

    if text2mask.val is None:
        raise InputError("text2mask", "val", "is null: there is nothing to judge the segmenter on")
    found: dict[str, Any] = {
        part: evaluate_segmenter(splits[part].under(text2mask), segmenter, folder)
        for part in ("val", "test")
        if part in splits
    }
    return {str(part): folder / report["folder"] for part, report in found.items()}, found


def evaluate(
    predictions: dict[str, Any], metrics: list[dict[str, Any]], text2mask: Text2MaskConfig
) -> dict[str, Any]:
    """The segmenter's mIoU on the validation split, beside that of its pseudo masks."""
    from diffground.papers.text2mask.segmenter_training import segmenter_figures

    found = predictions["val"]
    masks = [row["dcrf"] for row in metrics if row["split"] == found["split"]]
    pseudo = masks[-1]["miou"] if masks else None
    for miou in segmenter_figures(found).values():
        log.info("DeepLabV2 on %s: mIoU %.1f, pseudo masks %s", found["split"], miou, pseudo)
    get_tracker().log_metrics(segmenter_figures(found))
    test = {name: predictions[name] for name in ("test",) if name in predictions}
    return found | test | {"pseudo_masks_miou": pseudo, "scale": text2mask.scale}
