"""Trained PNG models on disk: whether one is finished and sound, and loading it."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from pydantic import ValidationError

from diffground.backbone.frozen import FrozenDiffusion
from diffground.data.png_benchmark import PngBenchmark
from diffground.errors import InputError
from diffground.io.files import is_sound, read_json
from diffground.papers.png.config import PngConfig, PngModelConfig
from diffground.papers.png.keys import READING, Variant
from diffground.papers.png.model import CONFIG, TRAIN_ANEW, WEIGHTS, PngModel
from diffground.training.checkpoint import BEST

log = logging.getLogger(__name__)

TRAINING = "training.json"


def finished(folder: Path) -> dict[str, Any] | None:
    """What a training in ``folder`` did, if it is finished and its files are as it wrote them."""
    if not (folder / CONFIG).exists():
        return None
    for name in (WEIGHTS, CONFIG, TRAINING):
        path = folder / name
        if not path.exists() or is_sound(path) is False:
            log.warning("%s is missing or was damaged: it is written again", path)
            return None
    kept = read_json(folder / TRAINING)
    if kept is None or read_json(folder / CONFIG) is None:
        log.warning("%s cannot be read: it is written again", folder / TRAINING)
        return None
    return kept


def weights_file(config: PngConfig, folder: Path) -> str:
    """The weights in ``folder`` that ``config`` asks for.

    Raises:
        InputError: the best are asked for, and none were looked for when it was trained.
    """
    if config.eval.weights == "last":
        return WEIGHTS
    if not (folder / BEST).exists():
        reason = "it was trained without png.train.evaluate_every, so no weights are the best"
        reason += f"; {TRAIN_ANEW}, or take the last"
        raise InputError(folder / BEST, "png.eval.weights", reason)
    return BEST


def find_variant(variant: Variant) -> Path:
    """The folder of a model that is there; of static prompting, which has no weights, that of its
    results.

    Raises:
        InputError: it needs training and was not trained with these settings.
    """
    if not variant.config.model.learns:
        variant.claim()
    elif not (variant.folder / CONFIG).exists():
        raise InputError(
            variant.folder,
            "model",
            "no model was trained with these settings; run the pipeline png_train with them, or "
            "evaluate zero-shot with png.model.insertion=none,png.model.decode=false. "
            f"Trained so far: {_trained(variant.folders.models)}",
        )
    return variant.folder


def load_variant(variant: Variant) -> PngModel:
    """The model in eval mode: the trained one, or zero-shot static prompting.

    Raises:
        InputError: as :func:`find_variant`, or it is damaged.
    """
    folder, config, backbone = find_variant(variant), variant.config, variant.backbone
    if not config.model.learns:
        splits = config.splits
        ids = PngBenchmark(variant.folders.coco, splits.val, splits.layout).categories.ids
        return PngModel(backbone, config.model, ids).to(backbone.device).eval()
    return _read_as(PngModel.load(folder / weights_file(config, folder), backbone), config)


def load_checkpoint(
    config: PngConfig, models: Path, backbone: FrozenDiffusion, model: str
) -> tuple[PngModel, str]:
    """A trained model by its name or path, whatever its settings, and what it is called.

    Args:
        models: the folder of trained models.
        model: the name of a variant; or the path of its folder, or of a file of weights in it.
            How it is read off (head, probability, threshold) is as ``config`` says.

    Raises:
        InputError: there is none, or it was trained in another frozen model.
    """
    named = models / model
    path = named if (named / CONFIG).exists() else Path(model)
    folder = path.parent if path.is_file() else path
    if not (folder / CONFIG).exists():
        reason = f"no trained model lies there. By name there are: {_trained(models)}"
        raise InputError(folder, "model", reason)
    weights = path.name if path.is_file() else weights_file(config, folder)
    return _read_as(PngModel.load(folder / weights, backbone), config), folder.name


def _read_as(model: PngModel, config: PngConfig) -> PngModel:
    """The model, read off as ``config`` says: that does not depend on the training.

    Raises:
        InputError: ``config`` wants a head that the model lacks.
    """
    wanted = {name: getattr(config.model, name) for name in READING}
    try:
        model.config = PngModelConfig.model_validate(model.config.model_dump() | wanted)
    except ValidationError as error:
        raise InputError("png", "model", str(error.errors()[0]["msg"])) from error
    return model


def _trained(models: Path) -> str:
    found = sorted(path.parent.name for path in models.glob(f"*/{CONFIG}"))
    return ", ".join(found) or "none"
