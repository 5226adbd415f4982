"""The off-the-shelf instance segmenter: a folder of transformers that answers by queries.

Mask2Former, MaskFormer and EoMT do: a category and a mask per query. Pictures are RGB all the way:
the folder's own processor normalises them, and swaps no channels.

``Q`` queries · ``C`` categories · ``N`` instances
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional
from transformers import AutoImageProcessor, AutoModelForUniversalSegmentation, PreTrainedModel

from diffground.backbone.folder import loading
from diffground.errors import InputError
from diffground.io.files import check_sums, load_json

#: What ``config.json`` calls the networks that answer by queries, of pictures alone.
KINDS: Final = ("eomt", "mask2former", "maskformer")


@contextmanager
def _any_backbone() -> Iterator[None]:
    """transformers does not say in the block that it has not tried every backbone, as a ResNet."""
    told = [logging.getLogger(f"transformers.models.{kind}.configuration_{kind}") for kind in KINDS]
    before = [logger.level for logger in told]
    for logger in told:
        logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        for logger, level in zip(told, before, strict=True):
            logger.setLevel(level)


@dataclass(frozen=True)
class Detections:
    """Instances of one image, by falling score.

    ``masks`` bool (N, H, W); ``labels`` names of categories (N); ``scores`` float (N) in [0, 1]:
    the probability of the category times the mean mask probability inside the mask.
    """

    masks: NDArray[np.bool_]
    labels: tuple[str, ...]
    scores: NDArray[np.float64]


class InstanceSegmenter:
    """Finds instances of a closed set of categories.

    segmenter = InstanceSegmenter.from_pretrained("data/06_models/mini-segmenter")
    detections = segmenter([image])[0]
    """

    def __init__(
        self,
        model: PreTrainedModel,
        processor: Any,
        folder: Path,
    ) -> None:
        self.model = model.eval().requires_grad_(False)
        self.processor = processor
        self.folder = folder
        self.labels = _labels(model.config.to_dict())

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Loads a local folder; InputError if it, or a part of it, is not there or damaged.

        Or if it is of a network that is not among :data:`KINDS`.
        """
        folder = Path(folder)
        for name in ("model.safetensors", "preprocessor_config.json"):
            if not (folder / name).is_file():
                raise InputError(folder, name, "the segmenter's folder lacks it")
        _config(folder)
        check_sums(folder, "fetch the folder again, or `git checkout -- <folder>` if it is tracked")
        with loading(folder), _any_backbone():
            model = AutoModelForUniversalSegmentation.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                trust_remote_code=False,
                dtype=torch.float32,
            )
            processor = AutoImageProcessor.from_pretrained(
                folder, local_files_only=True, trust_remote_code=False, backend="pil"
            )
        return cls(model.to(device), processor, folder)

    @torch.no_grad()
    def __call__(
        self, images: Sequence[NDArray[np.uint8]], *, threshold: float = 0.05
    ) -> list[Detections]:
        """Segments uint8 RGB images (H, W, 3); keeps what scores above ``threshold``.

        All categories the model knows are reported, also those of stuff.
        """
        if len({image.shape for image in images}) > 1:  # side by side they would be padded
            return [self([image], threshold=threshold)[0] for image in images]
        inputs: Any = self.processor(images=list(images), return_tensors="pt")
        output = self.model(pixel_values=inputs["pixel_values"].to(self.model.device))
        return [
            self._one(classes, masks, image.shape[:2], threshold)
            for classes, masks, image in zip(
                output.class_queries_logits, output.masks_queries_logits, images, strict=True
            )
        ]

    def _one(
        self, classes: Tensor, masks: Tensor, size: tuple[int, int], threshold: float
    ) -> Detections:
        probability, category = classes.softmax(-1)[:, :-1].max(-1)  # the last class is "nothing"
        likely = probability > threshold
        large = functional.interpolate(masks[None], size, mode="bilinear", align_corners=False)[0]
        logits = large[likely]
        inside = logits > 0
        quality = (logits.sigmoid() * inside).sum((1, 2)) / inside.sum((1, 2)).clamp_min(1)
        scores = probability[likely] * quality
        order = scores.argsort(descending=True)
        order = order[scores[order] > threshold]
        return Detections(
            inside[order].cpu().numpy(),
            tuple(self.labels[int(c)] for c in category[likely][order]),
            scores[order].double().cpu().numpy(),
        )


def labels_of(folder: str | Path) -> tuple[str, ...]:
    """The categories that a segmenter's folder knows, without loading it; errors as for loading."""
    return tuple(_labels(_config(Path(folder))).values())


def _labels(config: dict[str, Any]) -> dict[int, str]:
    return {int(number): str(name) for number, name in config["id2label"].items()}


def _config(folder: Path) -> dict[str, Any]:
    file = folder / "config.json"
    if not file.is_file():
        raise InputError(folder, file.name, "the segmenter's folder lacks it")
    config: dict[str, Any] = load_json(file)
    try:
        kind, labels = config["model_type"], config["id2label"]
    except (LookupError, TypeError) as error:
        raise InputError(file, "config", f"is none of a segmenter ({error})") from error
    if not isinstance(labels, dict) or not all(str(label).isdecimal() for label in labels):
        raise InputError(file, "id2label", "names of categories by their numbers are needed")
    if kind not in KINDS:
        reason = f"{kind!r} with {len(labels)} labels: a segmenter is of {', '.join(KINDS)}"
        raise InputError(file, "model_type", reason)
    return config
