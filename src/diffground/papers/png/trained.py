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
from diffground.papers.png.config import PngConfig, PngFolders, PngModelConfig
from diffground.papers.png.keys import READING, Variant
from diffground.papers.png.model import CONFIG, TRAIN_ANEW, WEIGHTS, PngModel
from diffground.provenance import claim
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
        raise InputError(
            folder / BEST,
            "png.eval.weights",
            f"it was trained without png.train.evaluate_every, so no weights are the best; "
            f"{TRAIN_ANEW}, or take the last",
        )
    return BEST


def load_variant(
    config: PngConfig, folders: PngFolders, backbone: FrozenDiffusion
) -> tuple[PngModel, Variant]:
    """The model of ``config`` in eval mode: the trained one, or zero-shot static prompting.

    Raises:
        InputError: it needs training and was not trained with these settings.
    """
    folder, variant = find_variant(config, folders, backbone)
    return load_model(config, folder, folders.coco, backbone), variant


def find_variant(
    config: PngConfig, folders: PngFolders, backbone: FrozenDiffusion
) -> tuple[Path, Variant]:
    """The folder of ``config``'s model, which is there; of static prompting, which has no weights,
    that of its results.

    Raises:
        InputError: it needs training and was not trained with these settings.
    """
    variant = Variant.of(config, folders, backbone)
    folder = folders.models / variant.name
    if not config.model.learns:
        claim(folder, variant.content)
    elif not (folder / CONFIG).exists():
        raise InputError(
            folder,
            "model",
            "no model was trained with these settings; run the pipeline png_train with them, or "
            "evaluate zero-shot with png.model.insertion=none,png.model.decode=false. "
            f"Trained so far: {_trained(folders)}",
        )
    return folder, variant


def load_model(config: PngConfig, folder: Path, coco: Path, backbone: FrozenDiffusion) -> PngModel:
    """The model in ``folder``, as :func:`find_variant` found it, in eval mode."""
    if not config.model.learns:
        ids = PngBenchmark(coco, config.splits.val, config.splits.layout).categories.ids
        return PngModel(backbone, config.model, ids).to(backbone.device).eval()
    return _read_as(PngModel.load(folder, backbone, weights_file(config, folder)), config)


def load_checkpoint(
    config: PngConfig, folders: PngFolders, backbone: FrozenDiffusion, model: str
) -> tuple[PngModel, str]:
    """A trained model by its name or path, whatever its settings, and what it is called.

    Args:
        model: the name of a variant; or the path of its folder, or of a file of weights in it.
            How it is read off (head, probability, threshold) is as ``config`` says.

    Raises:
        InputError: there is none, or it was trained in another frozen model.
    """
    folder = folders.models / model
    if not (folder / CONFIG).exists():
        folder = Path(model)
    weights = weights_file(config, folder) if (folder / CONFIG).exists() else WEIGHTS
    if folder.is_file():
        folder, weights = folder.parent, folder.name
    if not (folder / CONFIG).exists():
        reason = f"no trained model lies there. By name there are: {_trained(folders)}"
        raise InputError(folder, "model", reason)
    return _read_as(PngModel.load(folder, backbone, weights), config), folder.name


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


def _trained(folders: PngFolders) -> str:
    found = sorted(path.parent.name for path in folders.models.glob(f"*/{CONFIG}"))
    return ", ".join(found) or "none"
