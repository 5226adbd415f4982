"""DeepLabV2 on the masks of one split, judged on another (002, §5.1, Tables 3 and 4).

What is trained depends on the masks, pseudo or true, and the segmenter's settings, and lies in a
folder of that name: ``<models>/deeplab-<key>/``, see
:func:`diffground.segmenters.semantic.train_semantic`.
"""

from __future__ import annotations

import tarfile
from dataclasses import replace
from pathlib import Path
from typing import Any

from diffground.data.image_lists import VocSource
from diffground.errors import InputError
from diffground.io.files import read_json, write_whole
from diffground.io.locks import held
from diffground.masks.mask_files import mask_path
from diffground.papers.text2mask.keys import Split
from diffground.provenance import RECIPE, claim
from diffground.segmenters.config import SemanticConfig
from diffground.segmenters.deeplab import DeepLabV2
from diffground.segmenters.label_files import label_path
from diffground.segmenters.prediction import VOC_SERVER, SemanticSegmenter, predict
from diffground.segmenters.resnet import CONFIG
from diffground.segmenters.semantic import MODEL, TRAINING, code_of_training, train_semantic
from diffground.store.manifest import config_hash, fingerprint, is_valid
from diffground.training.loop import OnLog
from diffground.training.processes import chosen_device, processes

BACKBONE = "backbone"  # beside the trained network, once somebody asks for it


def segmenter_folder(split: Split, models: Path) -> Path:
    """Where the segmenter that learns from a split's masks lies, among the others in ``models``.

    Pseudo masks are told apart by the sizes of their files too: when an image was mended and its
    mask made again, another segmenter is trained.
    """
    content = _recipe(split) | ({"bytes": _sizes(split)} if _pseudo(split) else {})
    return models / f"deeplab-{config_hash(content)[:12]}"


def _recipe(split: Split) -> dict[str, Any]:
    """All that a segmenter depends on but the files themselves: other code makes other ones."""
    return {
        "code": code_of_training(),
        "segmenter": _settings(split).learning_content(),
        "masks": read_json(split.masks / RECIPE) if _pseudo(split) else split.content,
        "ids": [sample.id for sample in split.samples],
    }


def train_segmenter(
    split: Split,
    models: Path,
    *,
    val: Split | None = None,
    on_log: OnLog | None = None,
) -> dict[str, Any]:
    """Trains on the masks of ``split``, or goes on, or finds it done.

    Args:
        models: gets a folder of the segmenter's name.
        val: its true masks are what ``train.evaluate_every`` compares with; else it is not used.

    Returns:
        What ``train_semantic`` does, and ``"folder"``, the model's name. Pixels of 255 (the CRF was
        not sure) are not learnt from; an image without a pseudo mask is skipped and reported.

    Raises:
        InputError: no pseudo mask can be used: they are made first (``label``); or the dataset has
            no true masks, and ``supervision`` asks for them; or ``train.evaluate_every`` is set,
            and no image of ``val`` has a true mask.
    """
    if _pseudo(split) and not is_valid(split.masks):
        reason = "they are not all there: run pseudo_labels, every shard of it"
        raise InputError(split.masks, "masks", reason)
    samples = [sample for sample in split.samples if sample.mask_path]
    if _pseudo(split):
        samples = [replace(s, mask_path=mask_path(split.masks, s.id)) for s in split.samples]
    if not samples:
        raise InputError(split.source.dataset, "masks", "the dataset has no masks to learn from")
    judged = []
    if _settings(split).train.evaluate_every:
        judged = [s for s in val.samples if s.mask_path] if val else []
        if not judged:
            reason = "there are no true masks to compare with: set text2mask.val, or 0 here"
            raise InputError("text2mask", "segmenter.train.evaluate_every", reason)
    folder = segmenter_folder(split, models)
    if processes().is_main_process:
        claim(folder, _recipe(split))
    summary = train_semantic(
        samples, split.classes, _settings(split), folder, val=judged, on_log=on_log
    )
    return summary | {"folder": folder.name}


def evaluate_segmenter(
    split: Split, segmenter: Path, predictions: Path | None = None
) -> dict[str, Any]:
    """What a trained segmenter says about the images of ``split``.

    Args:
        segmenter: the folder that :func:`train_segmenter` filled.
        predictions: gets a folder of label PNGs with the segmenter's name; those of VOC's test
            images lie in it as the evaluation server wants them, and packed in ``results.tgz``.
            Files that a killed run left are kept. None keeps nothing.

    Returns:
        JSON-ready: what :func:`~diffground.segmenters.prediction.predict` returns,
        ``"segmenter"``, ``"split"``, and ``"folder"`` below ``predictions``.
    """
    if not (segmenter / TRAINING).exists():
        raise InputError(segmenter, "model", "there is none; run the pipeline segmenter_train")
    model = SemanticSegmenter(
        DeepLabV2.from_pretrained(segmenter / MODEL),
        _settings(split).predict,
        compat=split.config.compat,
        device=chosen_device(split.config.device),
    )
    server = isinstance(split.source, VocSource) and split.source.split == "test"
    name = f"{split.name}-{segmenter.name}"
    out = predictions / name if predictions else None
    files = out / VOC_SERVER if out and server else out
    found = predict(
        model,
        split.samples,
        folder=files,
        recipe={"model": fingerprint(segmenter / MODEL), **split.content} if files else None,
        workers=split.config.work.workers,
    )
    if out and server and processes().is_main_process:
        ids = [sample.id for sample in split.samples]
        write_whole(out / "results.tgz", lambda part: _pack(out, ids, part))
    return found | {"segmenter": segmenter.name, "split": split.name, "folder": name}


def segmenter_figures(result: dict[str, Any]) -> dict[str, float]:
    """What the run log keeps of a segmenter beside its JSON: its mIoU, next to the masks'."""
    miou = result["scores"]["miou"] if result["scores"] else None
    return {} if miou is None else {f"miou/{result['split']}/segmenter": miou}


def trained_backbone(folder: Path) -> Path:
    """The ResNet of a trained segmenter as a folder of transformers, for others to start from."""
    target = folder / BACKBONE
    with held(folder / f".{BACKBONE}.lock", "this network"):
        if not (target / CONFIG).exists():
            partial = folder / f".{BACKBONE}.part"
            DeepLabV2.from_pretrained(folder / MODEL).backbone.save_pretrained(partial)
            partial.replace(target)
    return target


def _pack(out: Path, ids: list[str], target: Path) -> None:
    """The labels of ``ids`` and nothing else that other runs may have left in the folder."""
    with tarfile.open(target, "w:gz") as archive:
        for item in ids:
            path = label_path(out / VOC_SERVER, item)
            if path.exists():  # else it is among the samples that were skipped
                archive.add(path, label_path(VOC_SERVER, item))


def _pseudo(split: Split) -> bool:
    return split.config.supervision == "pseudo"


def _sizes(split: Split) -> list[int | None]:
    """The bytes of each pseudo mask; None where there is none."""
    paths = (mask_path(split.masks, sample.id) for sample in split.samples)
    return [path.stat().st_size if path.exists() else None for path in paths]


def _settings(split: Split) -> SemanticConfig:
    if split.config.segmenter is None:
        raise InputError("text2mask", "segmenter", "its settings are null: nothing can be trained")
    return split.config.segmenter
