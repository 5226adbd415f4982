"""Average Recall of a PNG model over narratives, phrase by phrase.

The result depends on neither batch size, order nor number of processes: noise is seeded by sample
id, padded phrases take no part in any softmax, and IoUs are kept by (narrative, phrase). (Up to the
rounding of float sums, which batching changes.)

Under ``torchrun`` or ``accelerate launch`` each process measures every world-th narrative, none is
measured twice, and all processes return the whole result as one process would.
"""

from __future__ import annotations

import logging
from collections.abc import Iterator, Sequence
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Final

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch.nn import functional

from diffground.backbone.captions import check_caption
from diffground.config import PluralRule
from diffground.data.png_benchmark import PngSample, load_image, load_targets
from diffground.errors import InputError, Problem, ProblemReport
from diffground.metrics.average_recall import AverageRecall, Key, phrase_iou
from diffground.papers.png.config import PngEvalConfig
from diffground.papers.png.model import PngModel
from diffground.papers.png.narratives import PngDataset, PngItem, collate
from diffground.reporting.overlays import Comparison
from diffground.training.processes import processes

# Raised when a model is measured in another way.
CODE_VERSION: Final = 1

log = logging.getLogger(__name__)


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
    # Per phrase: narrative, phrase, text, thing, plural, iou, and held_out if any are.
    rows: list[dict[str, Any]]
    predictions: list[Prediction]
    report: ProblemReport = field(default_factory=ProblemReport)  # broken files that were skipped


#: Place of a sample among all -> its phrases' IoUs, or why it could not be used.
_Outcomes = dict[int, NDArray[np.float64] | Problem]


def evaluate(
    model: PngModel,
    dataset: PngDataset,
    config: PngEvalConfig,
    held_out: frozenset[int] = frozenset(),
) -> PngEvaluation:
    """Measures ``model`` on ``dataset``; samples that cannot be used are skipped and reported.

    A sample is skipped for a broken file or a caption that the text encoder cannot take.

    Every phrase of a sample is evaluated; one that the text encoder did not see (``truncate``) has
    an empty mask and scores 0. The kept predictions are those of the first usable samples.

    Args:
        dataset: all samples, the same on every process: each takes its share.
        held_out: categories that were held out of the training: their phrases are a group.

    Returns:
        The whole result, on every process, in the order of the samples.
    """
    state, samples = processes(), dataset.samples
    share = range(state.process_index, len(samples), state.num_processes)
    outcomes: _Outcomes = {}
    kept: dict[int, Prediction] = {}  # any of these may be among the first of all processes
    # The soft protocol does not binarise, so it takes no threshold.
    cut = 0.5 if config.protocol == "png_soft" else model.config.threshold
    was_training = model.training
    model.eval()
    usable = _usable(model, dataset, share, outcomes)
    while batch := list(islice(usable, config.batch_size)):
        probs = model.predict(collate([item for _, item, _ in batch]).to(model.backbone.device))
        for (index, item, target), prob in zip(batch, probs, strict=True):
            mine = prob[: len(target)].float().cpu()
            outcomes[index] = iou = phrase_iou(mine, target, config.protocol, cut)
            if len(kept) < config.overlays:
                kept[index] = Prediction(item.sample, mine.numpy(), target, iou)
    model.train(was_training)
    return _merged(samples, outcomes, kept, config, held_out)


def _merged(
    samples: Sequence[PngSample],
    mine: _Outcomes,
    kept: dict[int, Prediction],
    config: PngEvalConfig,
    held_out: frozenset[int],
) -> PngEvaluation:
    """The whole result from every process's share, in the order of the samples."""
    parts = gather_object([mine])
    outcomes = {place: outcome for part in parts for place, outcome in part.items()}
    assert sum(map(len, parts)) == len(outcomes) == len(samples), "each sample once"
    recall = AverageRecall(config.protocol, config.plural_rule)
    report = ProblemReport(total=len(samples))
    rows: dict[Key, dict[str, Any]] = {}
    usable = []
    for place, sample in enumerate(samples):
        outcome = outcomes[place]
        if isinstance(outcome, Problem):
            report.problems.append(outcome)
        else:
            usable.append(place)
            rows |= _note(recall, sample, outcome, config.plural_rule, held_out)
    first = usable[: config.overlays]
    # Masks are large: only those that stay travel.
    here = {place: kept[place] for place in first if place in kept}
    drawn = {place: each for part in gather_object([here]) for place, each in part.items()}
    if report.problems and processes().is_main_process:
        log.warning("%d of %d narratives cannot be used", len(report.problems), report.total)
    return PngEvaluation(recall, list(rows.values()), [drawn[place] for place in first], report)


def _usable(
    model: PngModel, dataset: PngDataset, share: Sequence[int], outcomes: _Outcomes
) -> Iterator[tuple[int, PngItem, NDArray[np.bool_]]]:
    """The share's usable samples with their index and masks; problems go to ``outcomes``."""
    for index in share:
        sample = dataset.samples[index]
        try:
            check_caption(model.backbone, sample.caption, sample.spans, model.config.long_captions)
            ready = index, dataset[index], load_targets(sample)
        except InputError as error:
            outcomes[index] = Problem.of(sample.id, error)
        else:
            yield ready


def _note(
    recall: AverageRecall,
    sample: PngSample,
    iou: NDArray[np.float64],
    rule: PluralRule,
    held_out: frozenset[int],
) -> dict[Key, dict[str, Any]]:
    """Notes a sample's phrases, and returns their rows by (narrative, phrase)."""
    rows: dict[Key, dict[str, Any]] = {}
    for index, (phrase, value) in enumerate(zip(sample.phrases, iou, strict=True)):
        thing, plural = phrase.groups(rule)
        held = {"held_out": phrase.is_of(held_out)} if held_out else {}
        recall.update((sample.id, index), float(value), thing=thing, plural=plural, **held)
        rows[sample.id, index] = {
            "narrative": sample.id,
            "phrase": index,
            "text": phrase.text,
            "thing": thing,
            "plural": plural,
            "iou": round(float(value), 6),
            **held,
        }
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
