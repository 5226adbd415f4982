"""DeepLabV2 trained on label masks (From Text to Mask, §5.1).

Training takes pseudo masks or true ones, on the one training loop::

    summary = train_semantic(samples, classes, config, folder)

:mod:`diffground.segmenters.prediction` asks what was trained.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

from torch import Tensor, nn

from diffground.data.labelled_images import LabelledImage
from diffground.errors import InputError
from diffground.io.files import is_sound, read_json, write_json
from diffground.provenance import Made, code_of
from diffground.segmenters import crops as labelled
from diffground.segmenters import deeplab
from diffground.segmenters.config import PredictConfig, SemanticConfig
from diffground.segmenters.crops import (
    LabelledCrops,
    draws_for,
    fingerprint_files,
    fingerprint_labels,
    usable,
)
from diffground.segmenters.deeplab import DeepLabV2, deeplab_loss
from diffground.segmenters.prediction import SemanticSegmenter, predict
from diffground.segmenters.resnet import CONFIG, WEIGHTS
from diffground.store.manifest import config_hash, fingerprint
from diffground.training import loop
from diffground.training.loop import train
from diffground.training.processes import only_training, processes

log = logging.getLogger(__name__)

MODEL, TRAINING = "model", "training.json"
SEEN = "seen.json"  # the files a finished training was compared with; it may be deleted


def train_semantic(
    samples: Sequence[LabelledImage],
    classes: Sequence[str],
    config: SemanticConfig,
    folder: Path,
    *,
    val: Sequence[LabelledImage] = (),
    on_log: Callable[[dict[str, float], int], None] | None = None,
) -> dict[str, Any]:
    """Trains on the masks of ``samples``, or continues to; a finished training is not repeated.

    Args:
        classes: names of label 0, the background, 1, ...
        folder: gets ``last.pt`` (the checkpoint), ``model/`` (the network), ``training.json``,
            which says that it is finished, and ``seen.json``: while the files' sizes and times are
            those that it notes, a finished training is known again without reading them.
        val: evaluated every ``config.train.evaluate_every`` steps (0: never), without the CRF.

    Returns:
        JSON-ready ``{"key", "trained", "steps", "resumed_at", "seconds", "images", "skipped",
        "history", "metrics"}``; ``skipped`` is a problem report, ``trained`` is False if there was
        nothing to do.

    Raises:
        InputError: no sample can be used, or one could not be opened just now; the weights to start
            from are missing; or ``folder`` belongs to other settings or masks.
    """
    with only_training(folder):
        return _train(samples, classes, config, folder, val, on_log)


def _train(
    samples: Sequence[LabelledImage],
    classes: Sequence[str],
    config: SemanticConfig,
    folder: Path,
    val: Sequence[LabelledImage],
    on_log: Callable[[dict[str, float], int], None] | None,
) -> dict[str, Any]:
    settings = _settings(classes, config)
    # Before they are read: a mask that is changed meanwhile has other times afterwards.
    files = {"deep_check": config.deep_check, "files": fingerprint_files(samples)}
    seen = config_hash(settings | files)
    kept = _finished(folder)
    if kept and read_json(folder / SEEN) == {"key": kept["key"], "seen": seen}:
        return kept | {"trained": False}
    good, report = usable(samples, len(classes), deep=config.deep_check)
    for problem in report.problems:
        log.warning("%s is skipped: %s: %s", problem.item, problem.file, problem.reason)
    denied = [problem for problem in report.problems if problem.may_pass]
    if denied:
        # Left out, they would be missing for good: what is finished is not trained again.
        first = denied[0]
        raise InputError(first.file, first.field, f"{first.reason} ({len(denied)} such files)")
    if not good:
        raise InputError(folder, "samples", f"none of {report.total} can be trained on")
    key = config_hash(settings | {"labels": fingerprint_labels(good)})
    if kept and kept["key"] == key:
        if processes().is_main_process:
            write_json(folder / SEEN, {"key": key, "seen": seen})
        return kept | {"trained": False}
    model = DeepLabV2.build(config.network, classes, seed=config.train.seed)
    every = config.train.evaluate_every
    result = train(
        model=model,
        loss_fn=_losses,
        dataset=LabelledCrops(
            good,
            len(classes),
            config.crop,
            config.network,
            draws=draws_for(config.train.max_steps, config.train.batch_size, len(good)),
            seed=config.train.seed,
        ),
        config=config.train,
        folder=folder,
        evaluate=_evaluator(val, config.predict) if every and val else None,
        on_log=on_log,
        key=key,
        description="deeplab",
    )
    summary = {
        "key": key,
        "trained": True,
        "steps": result.steps,
        "resumed_at": result.resumed_at,
        "seconds": round(result.seconds, 1),
        "images": len(good),
        "skipped": report.to_dict(),
        "history": result.history,
        "metrics": result.metrics,
        **Made.now(result.commit).model_dump(),
    }
    if processes().is_main_process:
        model.save_pretrained(folder / MODEL)
        write_json(folder / TRAINING, summary, sealed=True)
        write_json(folder / SEEN, {"key": key, "seen": seen})
    processes().wait_for_everyone()  # whoever loads it next finds it whole
    return summary


def _finished(folder: Path) -> dict[str, Any] | None:
    """What the training in ``folder`` did, if its files are as it wrote them.

    Else it goes on from its checkpoint, the last, and writes them again.
    """
    kept = read_json(folder / TRAINING)
    for path in (folder / TRAINING, folder / MODEL / WEIGHTS, folder / MODEL / CONFIG):
        if kept is not None and (not path.exists() or is_sound(path) is False):
            log.warning("%s is missing or was damaged: it is written again", path)
            return None
    return kept


def _losses(model: nn.Module, batch: tuple[Tensor, Tensor]) -> dict[str, Tensor]:
    images, labels = batch
    return deeplab_loss(model(images), labels)


def _evaluator(
    val: Sequence[LabelledImage], config: PredictConfig
) -> Callable[[nn.Module], dict[str, float]]:
    quick = config.model_copy(update={"crf": None})

    def evaluate(model: nn.Module) -> dict[str, float]:
        assert isinstance(model, DeepLabV2)
        device = next(model.parameters()).device
        scores = predict(SemanticSegmenter(model, quick, device=device), val)["scores"]
        if scores is None:
            raise InputError("segmenter", "val", "no sample has a mask to compare with")
        return {name: scores[name] for name in ("miou", "pixel_accuracy")}

    return evaluate


def code_of_training() -> dict[str, int]:
    """The code versions that trained weights depend on besides the masks."""
    return code_of(deeplab, labelled, loop)


def _settings(classes: Sequence[str], config: SemanticConfig) -> dict[str, Any]:
    """All that the trained weights depend on besides the files; where they lie is not among it."""
    return {
        "network": config.network.model_dump(mode="json", exclude={"weights"}),
        "weights": fingerprint(config.network.weights) if config.network.weights else None,
        "crop": config.crop,
        "train": config.train_content(),
        "classes": list(classes),
        "code": code_of_training(),
    }
