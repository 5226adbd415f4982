"""What a trained DeepLabV2 says about images (From Text to Mask, §5.1)::

    segmenter = SemanticSegmenter(DeepLabV2.from_pretrained(folder / MODEL), config.predict)
    labels = segmenter(image)
    scores = predict(segmenter, val_samples, folder=out, recipe=made_by, workers=8)["scores"]

A prediction is of the image's own size, as in the public DeepLab, whose network itself merges three
scales; a dense CRF may refine it.

``C`` classes, the background first
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from contextlib import nullcontext
from functools import partial
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any, Final

import numpy as np
import torch
from accelerate.utils import gather_object
from numpy.typing import NDArray
from torch.nn import functional

from diffground.config import Compat
from diffground.data.labelled_images import LabelledImage
from diffground.errors import InputError, Problem, ProblemReport
from diffground.io.images import ImageSource, read_image
from diffground.io.labels import read_labels
from diffground.masks import crf
from diffground.masks.crf import check_backend
from diffground.metrics.miou import Confusion
from diffground.provenance import code_of
from diffground.segmenters import deeplab
from diffground.segmenters.config import PredictConfig
from diffground.segmenters.deeplab import DeepLabV2, normalise
from diffground.segmenters.label_files import LabelWork, label_path, refined, write_refined
from diffground.store.config import ShardConfig, WorkConfig
from diffground.store.items import Item, fill
from diffground.training.processes import processes

# Raised when the same network says other labels.
CODE_VERSION: Final = 1

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

    @torch.no_grad()
    def probabilities(self, image: ImageSource) -> NDArray[np.float32]:
        """Of an image, see :mod:`diffground.io.images`, without the CRF: float32 ``(C, H, W)``."""
        array = read_image(image)
        device = next(self.model.parameters()).device
        pixels = torch.from_numpy(np.ascontiguousarray(array)).permute(2, 0, 1).to(device)
        whole = normalise(pixels, self.model.config)[None]
        scores = self.model(whole)[-1]
        large = functional.interpolate(
            scores, array.shape[:2], mode="bilinear", align_corners=False
        )
        return large.softmax(1)[0].float().cpu().numpy()

    def __call__(self, image: ImageSource) -> NDArray[np.uint8]:
        """Labels uint8 ``(H, W)`` of an image (file, picture or array); no pixel is unsure."""
        pixels = read_image(image)
        work = LabelWork(pixels, self.probabilities(pixels))
        return refined(work, self.config.crf, self.compat)


def predict(
    segmenter: SemanticSegmenter,
    samples: Sequence[LabelledImage],
    *,
    folder: Path | None = None,
    recipe: Mapping[str, Any] | None = None,
    workers: int = 0,
) -> dict[str, Any]:
    """Labels ``samples``, and scores those with a true mask.

    Several processes take a shard of the samples each and return the whole result.

    Args:
        samples: each id once.
        folder: a store (:mod:`diffground.store.items`) of ``<id>.png`` in the VOC colours: what an
            earlier run left there is not made again. None keeps nothing. For the VOC test server it
            is ``<somewhere> / VOC_SERVER``.
        recipe: JSON-ready, which network and images these are; ``segmenter.config`` is added.
        workers: further processes for the CRF, of each process; 0 = none but this.

    Returns:
        JSON-ready ``{"scores", "images", "skipped"}``: those of
        :meth:`~diffground.metrics.miou.Confusion.result`, None without any true mask; the number of
        labelled images; and the report of samples whose image or true mask could not be read.

    Raises:
        InputError: no samples, an id occurs twice, or the CRF cannot be run.
    """
    assert (folder is None) == (recipe is None), "what is kept says what it is"
    state, config = processes(), segmenter.config
    by_id = {sample.id: sample for sample in samples}
    items = [
        Item(s.id, (label_path("", s.id).as_posix(),), sources={"image": s.image_path})
        for s in samples
    ]
    work = WorkConfig(
        shard=ShardConfig(index=state.process_index, count=state.num_processes),
        workers=workers if config.crf else 0,
    )
    if config.crf is not None:
        check_backend(config.crf)

    def make(item: str) -> LabelWork:
        image = by_id[item].load_image()
        return LabelWork(image, segmenter.probabilities(image))

    # Even if nobody keeps them: that way labels come back from the pool.
    with nullcontext(folder) if folder else TemporaryDirectory(prefix="labels-") as place:
        out = Path(place)
        done = fill(
            out,
            {"made_by": dict(recipe or {}), "predict": _recipe(segmenter)},
            items,
            make,
            partial(write_refined, out, config.crf, segmenter.compat),
            what="labels",
            work=work,
            hidden=not state.is_main_process,
        )
        report = ProblemReport(done["items"])
        report.problems = [Problem(**row) for row in done["skipped"]["problems"]]
        unread = {problem.item for problem in report.problems}
        share = samples[work.shard.index :: work.shard.count]
        confusion = Confusion(segmenter.model.classes)
        _score([s for s in share if s.id not in unread], out, confusion, report)
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


def _score(
    samples: Sequence[LabelledImage], folder: Path, confusion: Confusion, report: ProblemReport
) -> None:
    """Compares the files with the true masks: the same numbers whichever run made them."""
    for sample in samples:
        if sample.mask_path is None:
            continue
        try:
            labels = read_labels(label_path(folder, sample.id))
            truth = sample.load_mask(labels.shape, len(confusion.classes))
        except InputError as error:
            report.add(sample.id, error)
            continue
        confusion.update(labels, truth)


def _recipe(segmenter: SemanticSegmenter) -> dict[str, Any]:
    """The settings that labels depend on; the machines that share a folder may differ."""
    settings = segmenter.config.model_dump(mode="json", exclude={"crf": {"device"}})
    settings["code"] = code_of(deeplab) | {"prediction": CODE_VERSION}
    if segmenter.config.crf is not None:
        settings["code"] |= code_of(crf)
        settings["compat"] = segmenter.compat
    return settings
