"""DeepLabV2 on the pseudo masks of one split, judged on another (002, §5.1, Tables 3 and 4).

What is trained depends on the pseudo masks and the segmenter's settings, and lies in a folder of
that name: ``<models>/deeplab-<key>/``, see :func:`diffground.segmenters.semantic.train_semantic`.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffground.errors import InputError
from diffground.manifest import config_hash
from diffground.masks.store import mask_path
from diffground.segmenters.labelled import LabelledImage
from diffground.segmenters.semantic import (
    MODEL,
    TRAINING,
    VOC_SERVER,
    SemanticConfig,
    SemanticSegmenter,
    predict,
    train_semantic,
)
from diffground.text2mask.lists import VocSource
from diffground.text2mask.variant import Split, Text2MaskFolders
from diffground.training.processes import processes

OnLog = Callable[[dict[str, float], int], None]


def segmenter_folder(split: Split, folders: Text2MaskFolders) -> Path:
    """Where the segmenter that learns from a split's pseudo masks lies."""
    aside = {"log_every", "checkpoint_every", "num_workers", "evaluate_every"}
    settings = _settings(split).model_dump(mode="json", exclude={"predict": True, "train": aside})
    content = {
        "segmenter": settings,
        "masks": split.masks.name,
        "ids": [sample.id for sample in split.samples],
    }
    return folders.models / f"deeplab-{config_hash(content)[:12]}"


def train_segmenter(
    split: Split, folders: Text2MaskFolders, *, on_log: OnLog | None = None
) -> dict[str, Any]:
    """Trains on the pseudo masks of ``split``, or goes on, or finds it done.

    Returns:
        What ``train_semantic`` does, and ``"folder"``, the model's name. Pixels of 255 (the CRF was
        not sure) are not learnt from; an image without a pseudo mask is skipped and reported.

    Raises:
        InputError: no pseudo mask can be used: they are made first (``label``).
    """
    samples = [
        LabelledImage(s.id, s.image_path, mask_path(split.masks, s.id), upright=s.upright)
        for s in split.samples
        if mask_path(split.masks, s.id).exists()
    ]
    if not samples:
        raise InputError(split.masks, "masks", "there are none; run the pipeline pseudo_labels")
    folder = segmenter_folder(split, folders)
    summary = train_semantic(samples, split.classes, _settings(split), folder, on_log=on_log)
    return summary | {"folder": folder.name}


def evaluate_segmenter(
    split: Split, trained: Split, folders: Text2MaskFolders, predictions: Path | None = None
) -> dict[str, Any]:
    """What the segmenter that learnt from ``trained`` says about the images of ``split``.

    Args:
        predictions: gets a folder of label PNGs with the segmenter's name; those of VOC's test
            images lie in it as the evaluation server wants them. None writes nothing.

    Returns:
        JSON-ready: what :func:`~diffground.segmenters.semantic.predict` returns, and ``"folder"``,
        ``"split"``.
    """
    folder = segmenter_folder(trained, folders)
    if not (folder / TRAINING).exists():
        raise InputError(folder, "model", "there is none; run the pipeline segmenter_train")
    device = trained.config.device
    segmenter = SemanticSegmenter.from_pretrained(
        folder / MODEL,
        _settings(trained).predict,
        device=processes().device if device == "auto" else device,
    )
    samples = [
        LabelledImage(s.id, s.image_path, s.mask_path, upright=s.upright) for s in split.samples
    ]
    server = isinstance(split.source, VocSource) and split.source.split == "test"
    out = predictions / f"{split.name}-{folder.name}" if predictions else None
    found = predict(segmenter, samples, folder=out / VOC_SERVER if out and server else out)
    return found | {"folder": folder.name, "split": split.name}


def _settings(split: Split) -> SemanticConfig:
    if split.config.segmenter is None:
        raise InputError("text2mask", "segmenter", "its settings are null: nothing can be trained")
    return split.config.segmenter
