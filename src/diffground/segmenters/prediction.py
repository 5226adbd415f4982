"""What a trained DeepLabV2 says about images (From Text to Mask, §5.1)::

    segmenter = SemanticSegmenter.from_pretrained(folder / MODEL, config.predict)
    labels = segmenter(image)
    scores = predict(segmenter, val_samples, folder=out, recipe=made_by, workers=8)["scores"]

A prediction averages probabilities over scales and mirror images, and a dense CRF may refine it. By
default that is one scale and no mirror image, as in the public DeepLab; the network itself merges
three scales.

``C`` classes, the background first
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final, Self

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffground.config import Compat
from diffground.errors import InputError, ProblemReport
from diffground.io.images import ImageSource, read_image
from diffground.io.labels import read_labels
from diffground.masks import crf
from diffground.masks.crf import check_backend
from diffground.metrics.miou import Confusion
from diffground.progress import progress
from diffground.provenance import code_of
from diffground.segmenters import deeplab
from diffground.segmenters.config import PredictConfig
from diffground.segmenters.crops import LabelledImage
from diffground.segmenters.deeplab import DeepLabV2, normalise
from diffground.segmenters.label_files import (
    LabelWork,
    claimed,
    is_written,
    label_path,
    refined,
    write_refined,
)
from diffground.store.pool import outcomes
from diffground.training.processes import processes

# Raised when the same network says other labels.
CODE_VERSION: Final = 1

log = logging.getLogger(__name__)

VOC_SERVER = Path("results/VOC2012/Segmentation/comp6_test_cls")  # one indexed PNG an image


class SemanticSegmenter:
    """Gives every pixel a class. ``model.classes`` are the names."""

    def __init__(
        self,
        model: DeepLabV2,
        config: PredictConfig,
        *,
        compat: Compat = "official",
        device: str | torch.device = "cpu",
    ) -> None:
        """``compat`` says which picture the CRF sees, see :mod:`diffground.masks.crf`."""
        self.model = model.to(device).eval()
        self.config, self.compat = config, compat

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        config: PredictConfig,
        *,
        compat: Compat = "official",
        device: str | torch.device = "cpu",
    ) -> Self:
        """Loads the ``model/`` that ``train_semantic`` wrote; InputError if it is none."""
        return cls(DeepLabV2.from_pretrained(folder), config, compat=compat, device=device)

    @torch.no_grad()
    def probabilities(self, image: ImageSource) -> NDArray[np.float32]:
        """Of an image, see :mod:`diffground.io.images`, without the CRF: float32 ``(C, H, W)``."""
        array = read_image(image)
        height, width = array.shape[:2]
        device = next(self.model.parameters()).device
        pixels = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1).to(device)
        whole = normalise(pixels, self.model.config)[None]
        views = [self._view(whole, scale) for scale in self.config.scales]
        if self.config.flip:
            views += [self._view(whole.flip(-1), s).flip(-1) for s in self.config.scales]
        mean = torch.stack(views).mean(0)
        assert mean.shape[-2:] == (height, width), mean.shape
        return mean[0].float().cpu().numpy()

    def __call__(self, image: ImageSource) -> NDArray[np.uint8]:
        """Labels uint8 ``(H, W)`` of an image (file, picture or array); no pixel is unsure."""
        pixels = read_image(image)
        work = LabelWork(pixels, self.probabilities(pixels))
        return refined(work, self.config.crf, self.compat)

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


def predict(
    segmenter: SemanticSegmenter,
    samples: Sequence[LabelledImage],
    *,
    folder: Path | None = None,
    recipe: Mapping[str, Any] | None = None,
    workers: int = 0,
    look_ahead: int | None = None,
) -> dict[str, Any]:
    """Labels ``samples``, writes the masks, and scores those with a true mask.

    Several processes take a share of the samples each and return the whole result.

    Args:
        samples: each id once.
        folder: gets ``<id>.png`` in the VOC colours, whole files only; None keeps nothing. For the
            VOC test server it is ``<somewhere> / VOC_SERVER``.
        recipe: JSON-ready, which network and images these are. With it, files are kept that a run
            with the same recipe and the same ``segmenter.config`` left in ``folder``, and the
            others made: a killed run goes on. None makes all of them.
        workers: further processes for the CRF, of each process; 0 = none but this.
        look_ahead: images in memory at once; None = 2 x workers.

    Returns:
        JSON-ready ``{"scores", "images", "skipped"}``: those of
        :meth:`~diffground.metrics.miou.Confusion.result`, None without any true mask; the number of
        labelled images; and the report of samples that could not be read.

    Raises:
        InputError: an id occurs twice, or the CRF cannot be run.
    """
    assert folder is not None or recipe is None, "without a folder there is nothing to go on with"
    state = processes()
    share = samples[state.process_index :: state.num_processes]
    confusion, report = Confusion(segmenter.model.classes), ProblemReport(total=len(share))
    pool = workers if segmenter.config.crf else 0
    if segmenter.config.crf is not None:
        check_backend(segmenter.config.crf)
    with ExitStack() as stack:
        if folder is not None:
            _check_ids(samples, folder)
        if folder is not None and recipe is not None:
            if state.is_main_process:
                whole = {"made_by": dict(recipe), "predict": _recipe(segmenter)}
                stack.enter_context(claimed(folder, whole, [sample.id for sample in samples]))
            state.wait_for_everyone()  # what the main process has left is to be trusted
        if folder is None and not pool:
            _stream(segmenter, share, confusion, report)
        else:
            # Even if nobody keeps them: that way labels come back from the pool.
            out = folder or Path(stack.enter_context(TemporaryDirectory(prefix="labels-")))
            todo = share
            if recipe is not None:
                count = len(segmenter.model.classes)
                todo = [s for s in share if not is_written(out, s.id, count)]
                log.info("%s: %d of %d are there", out, len(share) - len(todo), len(share))
            _write(segmenter, todo, out, report, pool, look_ahead)
            failed = {problem.item for problem in report.problems}
            _score([s for s in share if s.id not in failed], out, confusion, report)
        parts = gather_object([(confusion, report)])
    total, problems = Confusion(segmenter.model.classes), ProblemReport()
    for part, found in parts:
        total.merge(part)
        problems.total += found.total
        problems.problems += found.problems
    problems.problems.sort(key=lambda problem: problem.item)
    return {
        "scores": total.result() if total.images else None,
        "images": problems.total - len(problems.problems),
        "skipped": problems.to_dict(),
    }


def _stream(
    segmenter: SemanticSegmenter,
    samples: Sequence[LabelledImage],
    confusion: Confusion,
    report: ProblemReport,
) -> None:
    """Scores labels that nobody keeps, one image after the other."""
    for sample in samples:
        try:
            image, truth = _load(sample, len(segmenter.model.classes))
        except InputError as error:
            _skip(sample, error, report)
            continue
        labels = segmenter(image)
        if truth is not None:
            confusion.update(labels, truth)


def _write(
    segmenter: SemanticSegmenter,
    samples: Sequence[LabelledImage],
    folder: Path,
    report: ProblemReport,
    workers: int,
    look_ahead: int | None,
) -> None:
    """Writes the labels of the samples that can be read, and notes the others in ``report``."""
    by_id = {sample.id: sample for sample in samples}
    unread: set[str] = set()
    classes = len(segmenter.model.classes)

    def make(item: str) -> LabelWork:
        try:
            image, _ = _load(by_id[item], classes)
        except InputError as error:
            unread.add(item)
            _skip(by_id[item], error, report)
            raise
        return LabelWork(image, segmenter.probabilities(image))

    finish = partial(write_refined, folder, segmenter.config.crf, segmenter.compat)
    ended = outcomes(by_id, make, finish, workers=workers, look_ahead=look_ahead)
    hidden = not processes().is_main_process
    for problem in progress(ended, "labels", total=len(by_id), hidden=hidden):
        if problem is not None and problem.item not in unread:
            # The CRF's: no image's fault, and the next one would end the same way.
            raise InputError(problem.file, problem.field, problem.reason)


def _score(
    samples: Sequence[LabelledImage], folder: Path, confusion: Confusion, report: ProblemReport
) -> None:
    """Compares the files with the true masks: the same numbers whichever run made them."""
    for sample in samples:
        if sample.labels is None:
            continue
        try:
            labels = read_labels(label_path(folder, sample.id))
            truth = sample.load_labels(labels.shape, len(confusion.whole.classes))
        except InputError as error:
            _skip(sample, error, report)
            continue
        confusion.update(labels, truth)


def _load(
    sample: LabelledImage, classes: int
) -> tuple[NDArray[np.uint8], NDArray[np.uint8] | None]:
    """The image, and its true labels if it has any; InputError if one cannot be read."""
    image = sample.load_image()
    if sample.labels is None:
        return image, None
    return image, sample.load_labels(image.shape[:2], classes)


def _skip(sample: LabelledImage, error: InputError, report: ProblemReport) -> None:
    log.warning("%s is skipped: %s", sample.id, error)
    report.add(sample.id, error)


def _recipe(segmenter: SemanticSegmenter) -> dict[str, Any]:
    """The settings that labels depend on; the machines that share a folder may differ."""
    settings = segmenter.config.model_dump(mode="json", exclude={"crf": {"device"}})
    settings["code"] = code_of(deeplab) | {"prediction": CODE_VERSION}
    if segmenter.config.crf is not None:
        settings["code"] |= code_of(crf)
        settings["compat"] = segmenter.compat
    return settings


def _check_ids(samples: Sequence[LabelledImage], folder: Path) -> None:
    seen: set[str] = set()
    for sample in samples:
        if sample.id in seen:
            raise InputError(folder, f"item {sample.id!r}", "the name occurs twice")
        seen.add(sample.id)
