"""Does a segmenter that learns from synthetic pictures know real ones? A row of ours, DeepLabV2.

It learns from an exported set (:mod:`.export`) and is judged on pictures that nobody generated,
rendered ones in the mini world. Beside it stand what learns as long from as many of those pictures,
with their true masks, and the control that calls every pixel background::

    lesson = Lesson.read(exported, roots, split, source, val, masks)
    found = judge("synthetic", lesson, settings, models)["scores"]["miou"]

Only the seen classes of the split are taught and judged: pixels of other classes are unsure (255),
and pictures without any of them are left out.
"""

from __future__ import annotations

from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any, Final, Literal, Self

import numpy as np
from numpy.typing import NDArray

from diffground.data.image_lists import Source, VocSource
from diffground.data.labelled_images import LabelledImage, read_samples
from diffground.errors import InputError, ProblemReport
from diffground.io.labels import write_labels
from diffground.metrics.iou import UNSURE
from diffground.metrics.miou import Confusion
from diffground.papers.grounded.classes import ClassSplit
from diffground.provenance import claim
from diffground.reporting.scale import Scale
from diffground.segmenters.config import PredictConfig, SemanticConfig
from diffground.segmenters.crops import fingerprint_labels
from diffground.segmenters.deeplab import DeepLabV2
from diffground.segmenters.label_files import label_path
from diffground.segmenters.prediction import SemanticSegmenter, predict
from diffground.segmenters.semantic import MODEL, code_of_training, train_semantic
from diffground.store.items import Item
from diffground.store.manifest import config_hash
from diffground.training.processes import processes
from diffground.training.sharing import fill_together

# Raised when the same files are other lessons.
CODE_VERSION: Final = 1

#: What a segmenter learns from: an exported set, real pictures with true masks, or nothing.
Teacher = Literal["synthetic", "real", "background"]
TEACHERS: Final[tuple[Teacher, ...]] = ("background", "synthetic", "real")


@dataclass(frozen=True)
class Lesson:
    """What is learned from, and what is judged on.

    Attributes:
        split: whose seen classes are taught.
        synthetic: the training pictures of an exported set.
        real: as many real ones, or all that there are.
        val: real ones to be judged on, with true masks.
    """

    split: ClassSplit
    synthetic: tuple[LabelledImage, ...]
    real: tuple[LabelledImage, ...]
    val: tuple[LabelledImage, ...]

    @classmethod
    def read(
        cls,
        exported: Path,
        roots: Mapping[str, Path],
        split: ClassSplit,
        source: Source,
        val: Source,
        masks: Path,
    ) -> Self:
        """Reads the lists, and writes masks of the split's seen classes alone below ``masks``.

        Args:
            exported: the folder of an export in the layout of VOC.
            roots: of each public dataset, the folder it lies in.
            source: real pictures to learn from.
            val: real pictures to be judged on.

        Raises:
            InputError: a list is missing, one has no picture of these classes, or the export is not
                in the layout of VOC.
        """
        made = _read(VocSource(split="train", masks="voc"), exported, split)
        synthetic = _restricted(made, split, masks)
        real = _restricted(_read(source, roots[source.dataset], split), split, masks)
        judged = _restricted(_read(val, roots[val.dataset], split), split, masks)
        return cls(split, tuple(synthetic), tuple(real[: len(synthetic)]), tuple(judged))

    @property
    def classes(self) -> tuple[str, ...]:
        """Names of label 0, the background, 1, ...; those that are not taught are never said."""
        return self.split.vocabulary.label_names

    def taught(self, teacher: Teacher) -> tuple[LabelledImage, ...]:
        """What a teacher shows."""
        shown: dict[Teacher, tuple[LabelledImage, ...]] = {
            "synthetic": self.synthetic, "real": self.real, "background": (),
        }  # fmt: skip
        return shown[teacher]


def judge(
    teacher: Teacher, lesson: Lesson, settings: SemanticConfig, models: Path, *, device: str = "cpu"
) -> dict[str, Any]:
    """Trains DeepLabV2 on what a teacher shows, or finds it trained, and judges it without a CRF.

    Args:
        settings: of the segmenter; its ``train.seed`` is that of the row.
        models: gets a folder of the segmenter's name.

    Returns:
        JSON-ready: ``"teacher"``, ``"images"`` that it learned from, ``"folder"`` (None: nothing
        was trained), ``"training"`` as :func:`~diffground.segmenters.semantic.train_semantic` says,
        ``"scores"`` of :meth:`~diffground.metrics.miou.Confusion.result`, and ``"miou_classes"``,
        their mean without the background, in percent.

    Raises:
        InputError: no picture can be learned from, or judged on.
    """
    if teacher == "background":
        confusion = Confusion(lesson.classes)
        for sample in lesson.val:
            truth = sample.load_mask(classes=len(lesson.classes))
            confusion.update(np.zeros_like(truth), truth)
        found: dict[str, Any] = {"images": 0, "folder": None, "training": None}
        scores = confusion.result()
    else:
        shown = lesson.taught(teacher)
        recipe = {
            "code": {"teaching": CODE_VERSION, **code_of_training()},
            "segmenter": settings.learning_content(),
            "labels": fingerprint_labels(shown),
        }
        folder = models / f"{teacher}-{config_hash(recipe)[:12]}"
        if processes().is_main_process:
            claim(folder, recipe)
        training = train_semantic(shown, lesson.classes, settings, folder)
        network = DeepLabV2.from_pretrained(folder / MODEL)
        segmenter = SemanticSegmenter(network, PredictConfig(), device=device)
        scores = predict(segmenter, lesson.val)["scores"]
        if scores is None:
            raise InputError("lesson", "val", "no picture has a mask that can be read")
        found = {"images": training["images"], "folder": folder.name, "training": training}
    return {"teacher": teacher, **found, "scores": scores, "miou_classes": _of_classes(scores)}


def report(found: Iterable[Mapping[str, Any]], scale: Scale) -> dict[str, Any]:
    """JSON-ready: what :func:`judge` said of each, and every teacher's mean over its seeds."""
    rows = [dict(row) for row in found]
    figures: dict[str, list[tuple[float, float]]] = {}
    for row in rows:
        mean, classes = row["scores"]["miou"], row["miou_classes"]
        figures.setdefault(row["teacher"], []).append((mean, classes))
    names = ("miou", "miou_classes")
    means = {
        teacher: dict(zip(names, np.mean(values, axis=0).tolist(), strict=True))
        for teacher, values in figures.items()
    }
    return {"scale": scale, "means": means, "rows": rows}


def _of_classes(scores: Mapping[str, Any]) -> float | None:
    """Mean IoU of the classes that occur, in percent, without the background."""
    _, *classes = scores["iou"].values()
    known = [iou for iou in classes if iou is not None]
    return float(np.mean(known)) if known else None


def _read(source: Source, root: Path, split: ClassSplit) -> list[LabelledImage]:
    """Pictures in which a seen class of the split is."""
    report = ProblemReport()
    samples = read_samples(source, root, split.vocabulary, report)
    taught = _names(split)
    found = [sample for sample in samples if taught & {*sample.classes}]
    if not found:
        why = report.problems[0].reason if report.problems else "it has none"
        reason = f"no picture of the seen classes of {split.name} can be used: {why}"
        raise InputError(root, "pictures", reason)
    return found


def _restricted(
    samples: Sequence[LabelledImage], split: ClassSplit, root: Path
) -> list[LabelledImage]:
    """The samples with masks in which the pixels of all other classes are unsure."""
    labels = split.labels()
    kept = [0, *(labels[name] for name in split.seen)]
    recipe = {"code": {"teaching": CODE_VERSION}, "labels": kept}
    data = [sample.mask_file().as_posix() for sample in samples]
    folder = root / f"{split.name}-{config_hash(recipe | {'data': data})[:12]}"
    by_id = {sample.id: sample for sample in samples}
    items = [
        Item(s.id, (label_path("", s.id).as_posix(),), sources={"mask": s.mask_file()})
        for s in samples
    ]

    def make(item: str) -> NDArray[np.uint8]:
        found = by_id[item].load_mask()
        found[~np.isin(found, kept)] = UNSURE
        return found

    def finish(item: str, found: NDArray[np.uint8]) -> None:
        write_labels(label_path(folder, item), found)

    fill_together(folder, recipe, items, make, finish, what="masks of")
    return [
        replace(sample, mask_path=path)
        for sample in samples
        if (path := label_path(folder, sample.id)).exists()  # else it is reported
    ]


def _names(split: ClassSplit) -> set[str]:
    """The seen classes as the dataset's vocabulary calls them."""
    labels, names = split.labels(), split.vocabulary.label_names
    return {names[labels[name]] for name in split.seen}
