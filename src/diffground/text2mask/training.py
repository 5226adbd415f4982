"""DeepLabV2 on the masks of one split, judged on another (002, §5.1, Tables 3 and 4).

What is trained depends on the masks, pseudo or true, and the segmenter's settings, and lies in a
folder of that name: ``<models>/deeplab-<key>/``, see
:func:`diffground.segmenters.semantic.train_semantic`.
"""

from __future__ import annotations

import tarfile
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffground.errors import InputError
from diffground.io.files import write_whole
from diffground.manifest import config_hash
from diffground.masks.store import mask_path
from diffground.segmenters.deeplab import DeepLabV2
from diffground.segmenters.labelled import LabelledImage
from diffground.segmenters.resnet import CONFIG
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
BACKBONE = "backbone"  # beside the trained network, once somebody asks for it


def segmenter_folder(split: Split, folders: Text2MaskFolders) -> Path:
    """Where the segmenter that learns from a split's masks lies."""
    aside = {"log_every", "checkpoint_every", "num_workers", "evaluate_every"}
    settings = _settings(split).model_dump(mode="json", exclude={"predict": True, "train": aside})
    content = {
        "segmenter": settings,
        "masks": split.masks.name if _pseudo(split) else _truth(split),
        "ids": [sample.id for sample in split.samples],
    }
    return folders.models / f"deeplab-{config_hash(content)[:12]}"


def train_segmenter(
    split: Split, folders: Text2MaskFolders, *, on_log: OnLog | None = None
) -> dict[str, Any]:
    """Trains on the masks of ``split``, or goes on, or finds it done.

    Returns:
        What ``train_semantic`` does, and ``"folder"``, the model's name. Pixels of 255 (the CRF was
        not sure) are not learnt from; an image without a pseudo mask is skipped and reported.

    Raises:
        InputError: no pseudo mask can be used: they are made first (``label``); or the dataset has
            no true masks, and ``supervision`` asks for them.
    """
    made = {s.id: mask_path(split.masks, s.id) for s in split.samples} if _pseudo(split) else {}
    masks = {s.id: made.get(s.id, s.mask_path) for s in split.samples}
    samples = [
        LabelledImage(s.id, s.image_path, mask, upright=s.upright)
        for s in split.samples
        if (mask := masks[s.id]) is not None and mask.exists()
    ]
    if not samples:
        reason = "run the pipeline pseudo_labels" if _pseudo(split) else "the dataset has no masks"
        raise InputError(split.masks, "masks", f"there are none; {reason}")
    folder = segmenter_folder(split, folders)
    summary = train_semantic(samples, split.classes, _settings(split), folder, on_log=on_log)
    return summary | {"folder": folder.name}


def evaluate_segmenter(
    split: Split, trained: Split, folders: Text2MaskFolders, predictions: Path | None = None
) -> dict[str, Any]:
    """What the segmenter that learnt from ``trained`` says about the images of ``split``.

    Args:
        predictions: gets a folder of label PNGs with the segmenter's name; those of VOC's test
            images lie in it as the evaluation server wants them, and packed in ``results.tgz``.
            None writes nothing.

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
    if out and server and processes().is_main_process:
        write_whole(out / "results.tgz", lambda part: _pack(out, part))
    return found | {"folder": folder.name, "split": split.name}


def trained_backbone(split: Split, folders: Text2MaskFolders) -> Path:
    """The ResNet of a trained segmenter as a folder of transformers, for others to start from."""
    folder = segmenter_folder(split, folders)
    target = folder / BACKBONE
    if not (target / CONFIG).exists():
        partial = folder / f".{BACKBONE}.part"
        DeepLabV2.from_pretrained(folder / MODEL).backbone.save_pretrained(partial)
        partial.replace(target)
    return target


def _pack(out: Path, target: Path) -> None:
    with tarfile.open(target, "w:gz") as archive:
        archive.add(out / VOC_SERVER, VOC_SERVER)


def _pseudo(split: Split) -> bool:
    return split.config.supervision == "pseudo"


def _truth(split: Split) -> dict[str, Any]:
    return {name: split.maps_recipe[name] for name in ("source", "data")}


def _settings(split: Split) -> SemanticConfig:
    if split.config.segmenter is None:
        raise InputError("text2mask", "segmenter", "its settings are null: nothing can be trained")
    return split.config.segmenter
