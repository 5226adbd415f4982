"""DeepLabV2 that learns from an exported set, beside real pictures and the control."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_grounded
import tiny_text2mask
from recipes import recipe

from diffground.data.image_lists import VocSource
from diffground.errors import InputError
from diffground.io.labels import read_labels
from diffground.metrics.iou import UNSURE
from diffground.papers.grounded.classes import ClassSplit
from diffground.papers.grounded.data_config import ChoiceConfig
from diffground.papers.grounded.export import export
from diffground.papers.grounded.export_config import ExportConfig, TeachingConfig
from diffground.papers.grounded.export_notes import Part
from diffground.papers.grounded.samples import SyntheticSet
from diffground.papers.grounded.teaching import Lesson, judge
from diffground.segmenters.config import SemanticConfig

SPLIT = ClassSplit.of("mini1")
TRAIN, VAL = VocSource(split="train_aug"), VocSource(split="val")


@pytest.fixture(scope="module")
def exported(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("export")
    made = SyntheticSet.open(root / tiny_grounded.made(root)["folder"])
    samples, _ = made.chosen(ChoiceConfig(least_score=0, instances="all", top=1))
    config = recipe(ExportConfig, layouts=["voc"])
    summary = export({"train": Part(samples, {})}, SPLIT, tiny_grounded.frozen(), root, config)
    return root / summary["folder"]


def lesson(exported: Path, root: Path, **changes: Any) -> Lesson:
    given = {"split": SPLIT, "source": TRAIN, "val": VAL} | changes
    roots = {"voc2012": tiny_text2mask.world() / "voc2012"}
    return Lesson.read(exported, roots, masks=root / "masks", **given)


def settings(seed: int = 0, steps: int = 3) -> SemanticConfig:
    own = tiny_text2mask.config().segmenter
    assert own is not None
    return TeachingConfig(max_steps=steps, seeds=(seed,)).settings(own, seed)


def test_only_the_seen_classes_are_taught_and_judged(exported: Path, tmp_path: Path) -> None:
    found = lesson(exported, tmp_path)
    assert len(found.real) <= len(found.synthetic) == 5 and found.val
    seen = {SPLIT.labels()[name] for name in SPLIT.seen}
    changed = 0
    for sample in (*found.synthetic, *found.real, *found.val):
        labels = sample.load_mask(sample.load_image().shape[:2], len(found.classes))
        assert {*np.unique(labels).tolist()} <= {0, *seen, UNSURE}
        assert {*sample.classes} & {*SPLIT.seen}
    data = tiny_text2mask.world() / "voc2012/VOCdevkit/VOC2012/SegmentationClassAug"
    for sample in (*found.real, *found.val):
        true, labels = read_labels(data / f"{sample.id}.png"), sample.load_mask()
        kept = np.isin(true, [0, *seen])
        assert np.array_equal(labels[kept], true[kept]) and (labels[~kept] == UNSURE).all()
        changed += int((labels != true).sum())
    assert changed, "the world has unseen things as well"


def test_the_control_calls_everything_background(exported: Path, tmp_path: Path) -> None:
    found = lesson(exported, tmp_path)
    control = judge("background", found, settings(), tmp_path / "models")
    truths = [sample.load_mask() for sample in found.val]
    known = sum(int((each != UNSURE).sum()) for each in truths)
    background = sum(int((each == 0).sum()) for each in truths)
    present = {int(v) for each in truths for v in np.unique(each)} - {UNSURE}
    assert control["scores"]["miou"] == pytest.approx(100 * background / known / len(present))
    assert control["miou_classes"] == 0 and control["folder"] is None


@pytest.mark.parametrize("teacher", ["synthetic", "real"])
def test_a_teacher_s_segmenter_is_trained_once(
    exported: Path, tmp_path: Path, teacher: Any
) -> None:
    found, models = lesson(exported, tmp_path), tmp_path / "models"
    first = judge(teacher, found, settings(), models)
    assert first["images"] == len(found.taught(teacher)) and first["training"]["steps"] == 3
    assert 0 <= first["miou_classes"] <= 100 and first["scores"]["images"] == len(found.val)
    again = judge(teacher, found, settings(), models)
    assert not again["training"]["trained"] and again["scores"] == first["scores"]
    other = judge(teacher, found, settings(seed=1), models)
    assert other["training"]["trained"] and other["folder"] != first["folder"]


def test_a_segmenter_learns_what_its_teacher_shows(exported: Path, tmp_path: Path) -> None:
    """Judged on the pictures that it learned from: the control is left behind."""
    found = lesson(exported, tmp_path, val=TRAIN)
    control = judge("background", found, settings(), tmp_path / "models")
    quick = settings(steps=150)
    train = quick.train.model_copy(update={"learning_rate": 2e-2, "batch_size": 4})
    quick = quick.model_copy(update={"train": train})
    taught = judge("real", found, quick, tmp_path / "models")
    assert taught["scores"]["miou"] > control["scores"]["miou"] + 1


def test_an_export_without_the_layout_of_voc(exported: Path, tmp_path: Path) -> None:
    with pytest.raises(InputError, match="ImageSets"):
        lesson(tmp_path, tmp_path)
    with pytest.raises(InputError, match="no picture of the seen classes of voc1"):
        lesson(exported, tmp_path, split=ClassSplit("voc1", ("tvmonitor",), ()))


def test_null_steps_are_the_segmenter_s_own() -> None:
    own = tiny_text2mask.config().segmenter
    assert own is not None
    made = TeachingConfig(max_steps=None, seeds=(4,)).settings(own, 4)
    assert made.train.max_steps == own.train.max_steps and made.train.seed == 4
