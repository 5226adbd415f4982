"""Average Recall of a PNG model over narratives, phrase by phrase.

The result depends on neither batch size nor order: noise is seeded by sample id, padded phrases
take no part in any softmax, and IoUs are kept by (narrative, phrase). (Up to the rounding of float
sums, which batching changes.)
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import PositiveInt
from torch import Tensor
from torch.nn import functional

from diffground.config import Config
from diffground.errors import InputError, ProblemReport
from diffground.metrics.average_recall import AverageRecall, PluralRule, Protocol, phrase_iou
from diffground.png.annotations import CategoryMap
from diffground.png.data import PngDataConfig, PngItem, collate, make_item
from diffground.png.model import PngModel
from diffground.png.phrases import check_caption
from diffground.png.samples import PngSample, load_image, load_targets
from diffground.reporting.overlays import Comparison

log = logging.getLogger(__name__)


class PngEvalConfig(Config):
    """How a model is measured. The first two stand beside every number."""

    protocol: Protocol = "original"
    plural_rule: PluralRule = "count"
    batch_size: PositiveInt = 8
    limit: PositiveInt | None = None  # narratives, in file order; None = all
    overlays: int = 8  # predictions kept to be drawn


@dataclass(frozen=True)
class Prediction:
    """One narrative's masks, to be drawn beside the truth."""

    sample: PngSample
    prob: NDArray[np.float32]  # (N, h, w) in [0, 1]
    target: NDArray[np.bool_]  # (N, H, W)
    iou: NDArray[np.float64]  # (N,)


@dataclass(frozen=True)
class PngEvaluation:
    """What came out."""

    recall: AverageRecall
    rows: list[dict[str, Any]]  # per phrase: narrative, phrase, text, thing, plural, iou
    predictions: list[Prediction]
    report: ProblemReport = field(default_factory=ProblemReport)  # broken files that were skipped


def evaluate(
    model: PngModel,
    samples: Sequence[PngSample],
    categories: CategoryMap,
    data: PngDataConfig,
    config: PngEvalConfig,
) -> PngEvaluation:
    """Measures ``model`` on ``samples``; those that cannot be used are skipped and reported.

    A sample is skipped for a broken file or a caption that the text encoder cannot take.

    Every phrase of a sample is evaluated. The kept predictions are those of the first samples.
    """
    recall = AverageRecall(config.protocol, config.plural_rule)
    report = ProblemReport(total=len(samples))
    rows: list[dict[str, Any]] = []
    predictions: list[Prediction] = []
    was_training = model.training
    model.eval()
    for items in _batches(model, samples, categories, data, config.batch_size, report):
        probs = model.predict(collate([item for item, _ in items]).to(model.backbone.device))
        for (item, target), prob in zip(items, probs, strict=True):
            iou = _phrase_iou(prob[: len(target)], target, config, model.config.threshold)
            rows += _note(recall, item.sample, iou, config.plural_rule)
            if len(predictions) < config.overlays:
                kept = prob[: len(target)].float().cpu().numpy()
                predictions.append(Prediction(item.sample, kept, target, iou))
    model.train(was_training)
    if report.problems:
        log.warning("%d of %d narratives cannot be used", len(report.problems), report.total)
    return PngEvaluation(recall, rows, predictions, report)


def _batches(
    model: PngModel,
    samples: Sequence[PngSample],
    categories: CategoryMap,
    data: PngDataConfig,
    size: int,
    report: ProblemReport,
) -> Iterator[list[tuple[PngItem, NDArray[np.bool_]]]]:
    ready: list[tuple[PngItem, NDArray[np.bool_]]] = []
    for sample in samples:
        try:
            check_caption(model.backbone, sample.caption, sample.spans, model.config.long_captions)
            ready.append((make_item(sample, categories, data), load_targets(sample)))
        except InputError as error:
            report.add(sample.id, error)
        if len(ready) == size:
            yield ready
            ready = []
    if ready:
        yield ready


def _phrase_iou(
    prob: Tensor, target: NDArray[np.bool_], config: PngEvalConfig, threshold: float
) -> NDArray[np.float64]:
    """IoU of each phrase; the soft protocol does not binarise, so it takes no threshold."""
    cut = 0.5 if config.protocol == "png_soft" else threshold
    return phrase_iou(prob.float().cpu(), target, config.protocol, cut)


def _note(
    recall: AverageRecall, sample: PngSample, iou: NDArray[np.float64], rule: PluralRule
) -> list[dict[str, Any]]:
    rows = []
    for index, (phrase, value) in enumerate(zip(sample.phrases, iou, strict=True)):
        thing, plural = phrase.groups(rule)
        recall.update((sample.id, index), float(value), thing=thing, plural=plural)
        rows.append(
            {
                "narrative": sample.id,
                "phrase": index,
                "text": phrase.text,
                "thing": thing,
                "plural": plural,
                "iou": round(float(value), 6),
            }
        )
    return rows


def compare(prediction: Prediction, threshold: float) -> Comparison:
    """A prediction beside the truth, each phrase noted with its IoU, for ``side_by_side``."""
    sample = prediction.sample
    size = sample.size
    prob = functional.interpolate(
        torch.from_numpy(prediction.prob)[None], size=size, mode="bilinear", align_corners=False
    )[0]
    return Comparison(
        image=load_image(sample),
        caption=sample.caption,
        spans=sample.spans,
        panels={"ground truth": prediction.target, "prediction": (prob > threshold).numpy()},
        notes=[f"{value:.2f}" for value in prediction.iou],
    )
