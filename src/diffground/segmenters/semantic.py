"""DeepLabV2 trained on label masks, and what it says about images (From Text to Mask, §5.1).

Training takes pseudo masks or true ones, on the one training loop::

    summary = train_semantic(samples, classes, config, folder)
    segmenter = SemanticSegmenter.from_pretrained(folder / MODEL, config.predict)
    labels = segmenter(image)
    scores = predict(segmenter, val_samples, folder=out)["scores"]

A prediction averages probabilities over scales and mirror images, and a dense CRF may refine it. By
default that is one scale and no mirror image, as in the public DeepLab; the network itself merges
three scales.

``C`` classes, the background first
"""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterator, Sequence
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from pydantic import Field, PositiveFloat, model_validator
from torch import Tensor, nn
from torch.nn import functional

from diffground.config import Config
from diffground.errors import InputError, ProblemReport
from diffground.io.files import write_whole
from diffground.manifest import config_hash, fingerprint
from diffground.masks.crf import CrfConfig, dense_crf
from diffground.masks.labels import labels_of, write_labels
from diffground.metrics.miou import Confusion
from diffground.segmenters.deeplab import DeepLabConfig, DeepLabV2, deeplab_loss, normalise
from diffground.segmenters.labelled import (
    CropConfig,
    LabelledCrops,
    LabelledImage,
    draws_for,
    fingerprint_labels,
    usable,
)
from diffground.training.config import TrainConfig
from diffground.training.loop import train
from diffground.training.processes import processes

log = logging.getLogger(__name__)

MODEL, TRAINING = "model", "training.json"
VOC_SERVER = Path("results/VOC2012/Segmentation/comp6_test_cls")  # one indexed PNG an image


class PredictConfig(Config):
    """How a trained network is asked."""

    scales: tuple[PositiveFloat, ...] = Field((1.0,), min_length=1)  # of the image
    flip: bool = False  # mirror images too
    crf: CrfConfig | None = None  # null = no dense CRF


class SemanticConfig(Config):
    """A segmenter: its network, training and prediction."""

    network: DeepLabConfig
    crops: CropConfig = CropConfig()
    train: TrainConfig
    predict: PredictConfig = PredictConfig()
    deep_check: bool = True  # opens every training file once, and skips the broken ones

    @model_validator(mode="after")
    def _batch_norm_has_a_batch(self) -> SemanticConfig:
        if self.network.batch_norm == "trained" and self.train.batch_size == 1:
            raise ValueError("trained batch norms need a batch of more than one crop")
        return self


class SemanticSegmenter:
    """Gives every pixel a class. ``model.classes`` are the names."""

    def __init__(
        self, model: DeepLabV2, config: PredictConfig, *, device: str | torch.device = "cpu"
    ) -> None:
        self.model = model.to(device).eval()
        self.config = config

    @classmethod
    def from_pretrained(
        cls, folder: str | Path, config: PredictConfig, *, device: str | torch.device = "cpu"
    ) -> Self:
        """Loads a folder that :func:`train_semantic` wrote; InputError if it is none."""
        return cls(DeepLabV2.from_pretrained(folder), config, device=device)

    @torch.no_grad()
    def probabilities(self, image: NDArray[np.uint8]) -> NDArray[np.float32]:
        """Of a uint8 RGB image ``(H, W, 3)``, without the CRF: float32 ``(C, H, W)``, sum 1."""
        assert image.dtype == np.uint8 and image.ndim == 3, (image.dtype, image.shape)
        height, width = image.shape[:2]
        device = next(self.model.parameters()).device
        pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).to(device)
        whole = normalise(pixels, self.model.config)[None]
        views = [self._view(whole, scale) for scale in self.config.scales]
        if self.config.flip:
            views += [self._view(whole.flip(-1), s).flip(-1) for s in self.config.scales]
        mean = torch.stack(views).mean(0)
        assert mean.shape[-2:] == (height, width), mean.shape
        return mean[0].float().cpu().numpy()

    def __call__(self, image: NDArray[np.uint8]) -> NDArray[np.uint8]:
        """Labels uint8 ``(H, W)`` of a uint8 RGB image ``(H, W, 3)``; no pixel is unsure."""
        scores = self.probabilities(image)
        if self.config.crf is not None:
            scores = dense_crf(image, scores, self.config.crf)
        return labels_of(scores, range(len(scores)), None)[0]

    def _view(self, pixels: Tensor, scale: float) -> Tensor:
        """Probabilities (1, C, H, W) from one scale of the normalised image (1, 3, H, W)."""
        size = pixels.shape[-2:]
        scaled = pixels
        if scale != 1.0:
            smaller = [max(1, int(side * scale)) for side in size]
            scaled = functional.interpolate(pixels, smaller, mode="bilinear", align_corners=False)
        scores = self.model(scaled)[-1]
        large = functional.interpolate(scores, size, mode="bilinear", align_corners=False)
        return large.softmax(1)


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
        folder: gets ``last.pt`` (the checkpoint), ``model/`` (the network) and, last,
            ``training.json``.
        val: evaluated every ``config.train.evaluate_every`` steps (0: never), without the CRF.

    Returns:
        JSON-ready ``{"key", "trained", "steps", "resumed_at", "seconds", "images", "skipped",
        "history", "metrics"}``; ``skipped`` is a problem report, ``trained`` is False if there was
        nothing to do.

    Raises:
        InputError: no sample can be used; the weights to start from are missing; or ``folder``
            belongs to other settings or masks.
    """
    good, report = usable(samples, len(classes), deep=config.deep_check)
    for problem in report.problems:
        log.warning("%s is skipped: %s: %s", problem.item, problem.file, problem.reason)
    if not good:
        raise InputError(folder, "samples", f"none of {report.total} can be trained on")
    key = _key(good, classes, config)
    if (folder / TRAINING).exists():
        kept: dict[str, Any] = json.loads((folder / TRAINING).read_text("utf-8"))
        if kept["key"] == key:
            return kept | {"trained": False}
    model = DeepLabV2.build(config.network, classes, seed=config.train.seed)
    every = config.train.evaluate_every
    result = train(
        model=model,
        loss_fn=_losses,
        dataset=LabelledCrops(
            good,
            len(classes),
            config.crops,
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
    }
    if processes().is_main_process:
        model.save_pretrained(folder / MODEL)
        text = json.dumps(summary, indent=2) + "\n"
        write_whole(folder / TRAINING, lambda part: part.write_text(text, "utf-8"))
    processes().wait_for_everyone()  # whoever loads it next finds it whole
    return summary


def predict(
    segmenter: SemanticSegmenter, samples: Sequence[LabelledImage], *, folder: Path | None = None
) -> dict[str, Any]:
    """Labels ``samples`` one by one, writes the masks, and scores those with a true mask.

    Several processes take a share of the samples each and return the whole result.

    Args:
        folder: gets ``<id>.png`` in the VOC colours, whole files only; None writes nothing. For the
            VOC test server it is ``<somewhere> / VOC_SERVER``, and ``somewhere`` is packed.

    Returns:
        JSON-ready ``{"scores", "images", "skipped"}``: those of
        :meth:`~diffground.metrics.miou.Confusion.result`, None without any true mask; the number of
        labelled images; and the report of samples that could not be read.
    """
    state = processes()
    share = samples[state.process_index :: state.num_processes]
    report, confusion = ProblemReport(), Confusion(segmenter.model.classes)
    done = 0
    for sample, labels, truth in _labelled(segmenter, share, report):
        if folder is not None:
            write_labels(folder / f"{sample.id}.png", labels)
        if truth is not None:
            confusion.update(labels, truth)
        done += 1
    parts = gather_object([(confusion, report, done)])
    total, problems = Confusion(segmenter.model.classes), ProblemReport()
    for part, found, _ in parts:
        total.merge(part)
        problems.total += found.total
        problems.problems += found.problems
    problems.problems.sort(key=lambda problem: problem.item)
    return {
        "scores": total.result() if total.images else None,
        "images": sum(part[2] for part in parts),
        "skipped": problems.to_dict(),
    }


def _labelled(
    segmenter: SemanticSegmenter, samples: Sequence[LabelledImage], report: ProblemReport
) -> Iterator[tuple[LabelledImage, NDArray[np.uint8], NDArray[np.uint8] | None]]:
    """Each sample that can be read with its predicted and its true labels."""
    for sample in samples:
        report.total += 1
        try:
            image = sample.load_image()
            truth = None
            if sample.labels is not None:
                truth = sample.load_labels(image.shape[:2], len(segmenter.model.classes))
        except InputError as error:
            log.warning("%s is skipped: %s", sample.id, error)
            report.add(sample.id, error)
            continue
        yield sample, segmenter(image), truth


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


def _key(samples: Sequence[LabelledImage], classes: Sequence[str], config: SemanticConfig) -> str:
    """Of everything that the trained weights depend on; where files lie is not among it."""
    aside = {"log_every", "checkpoint_every", "num_workers", "evaluate_every"}
    content = {
        "network": config.network.model_dump(mode="json", exclude={"weights"}),
        "weights": fingerprint(config.network.weights) if config.network.weights else None,
        "crops": config.crops.model_dump(mode="json"),
        "train": config.train.model_dump(mode="json", exclude=aside),
        "classes": list(classes),
        "labels": fingerprint_labels(samples),
    }
    return config_hash(content)
