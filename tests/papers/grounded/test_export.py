"""A synthetic set as COCO panoptic and VOC: what others read, where it is from, killed runs."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import tiny_grounded
from PIL import Image
from transformers import DetrImageProcessor

from diffground.data.image_lists import VocSource
from diffground.data.labelled_images import read_samples
from diffground.data.png_benchmark import PngBenchmark, load_image, load_targets
from diffground.data.vocabulary import Vocabulary
from diffground.errors import InputError, ProblemReport
from diffground.masks.phrase_masks import describe_mask
from diffground.metrics.iou import UNSURE
from diffground.papers.grounded import export as of_export
from diffground.papers.grounded.classes import ClassSplit
from diffground.papers.grounded.data_config import ChoiceConfig
from diffground.papers.grounded.export import export
from diffground.papers.grounded.export_config import ExportConfig
from diffground.papers.grounded.export_notes import Part
from diffground.papers.grounded.generation import shown
from diffground.papers.grounded.labelled import Labelled, check_all_asked
from diffground.papers.grounded.prompts import spans_of
from diffground.papers.grounded.samples import Instance, Record, SyntheticSet

CHOICE = ChoiceConfig(least_score=0, instances="all", top=1)
SPLIT = ClassSplit.of("mini1")


@pytest.fixture(scope="module")
def synthetic(tmp_path_factory: pytest.TempPathFactory) -> SyntheticSet:
    """Five samples, whose segmenter sees every class everywhere."""
    root = tmp_path_factory.mktemp("synthetic")
    return SyntheticSet.open(root / tiny_grounded.made(root)["folder"])


@pytest.fixture(scope="module")
def whole(synthetic: SyntheticSet, tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("export")
    summary = exported(root, synthetic)
    assert summary["complete"] and summary["made"] == 5 + 1 + 1
    return root / summary["folder"]


def settings(**changes: Any) -> ExportConfig:
    given = {"splits": {"train": "train"}, "layouts": ("coco", "voc"), "limit": None}
    return ExportConfig.model_validate(given | {"licence": "CC0"} | changes)


def exported(root: Path, synthetic: SyntheticSet, **changes: Any) -> Any:
    samples, _ = synthetic.chosen(CHOICE)
    part = Part(samples, {record.id: 0.25 for record in samples.records})
    return export({"train": part}, SPLIT, tiny_grounded.frozen(), root, settings(**changes))


def record(prompt: str, *instances: tuple[str, float, np.ndarray], **changes: Any) -> Record:
    content = {
        "id": "train-00000", "prompt": prompt,
        "names": tuple(dict.fromkeys(name for name, _, _ in instances)), "absent": (), "seed": 1,
        "kept": True, "reason": None, "size": (4, 4), "timestep": 1.0,
        "guided": True, "ranges": (),
        "instances": tuple(
            Instance(name=name, score=score, segmentation=describe_mask(mask)["segmentation"])
            for name, score, mask in instances
        ),
    }  # fmt: skip
    return Record.model_validate(content | changes)


def square(rows: slice, columns: slice) -> np.ndarray:
    mask = np.zeros((4, 4), bool)
    mask[rows, columns] = True
    return mask


def test_the_surest_instance_has_a_pixel_that_several_claim() -> None:
    left, top, inner = slice(0, 2), slice(0, 2), slice(0, 1)
    one = record(
        "a cat and a mug",
        ("cat", 0.9, square(top, slice(0, 4))),
        ("mug", 0.8, square(slice(0, 4), left)),
        ("cat", 0.7, square(inner, inner)),  # under both
        ("mug", 0.3, square(slice(0, 4), slice(3, 4))),  # too low a score
    )
    found = Labelled.of(one, CHOICE.model_copy(update={"least_score": 0.5}))
    assert [i.name for i in found.instances] == ["cat", "mug"] and found.covered == 1
    assert found.segments.tolist() == [[1, 1, 1, 1], [1, 1, 1, 1], [2, 2, 0, 0], [2, 2, 0, 0]]
    labels = found.classes({"cat": 7, "mug": 10})
    assert labels.tolist() == [
        [7, 7, 7, 7], [7, 7, 7, 7], [10, 10, 0, UNSURE], [10, 10, 0, UNSURE]
    ]  # fmt: skip
    rows = found.rows({"cat": 7, "mug": 10})
    assert [(row["category_id"], row["area"], row["bbox"]) for row in rows] == [
        (7, 8, [0, 0, 4, 2]), (10, 4, [0, 2, 2, 2]),
    ]  # fmt: skip


def test_a_class_that_was_not_asked_for_and_is_seen_all_the_same_is_unsure() -> None:
    everywhere = square(slice(0, 4), slice(0, 4))
    one = record(
        "a cat", ("cat", 0.9, square(slice(0, 2), slice(0, 4))), ("mug", 0.9, everywhere),
        names=("cat",), absent=("mug",),
    )  # fmt: skip
    labels = Labelled.of(one, CHOICE).classes({"cat": 7, "mug": 10})
    assert (labels[:2] == 7).all() and (labels[2:] == UNSURE).all()


def test_masks_of_samples_and_labels_are_of_the_same_instances(synthetic: SyntheticSet) -> None:
    for choice in (CHOICE, CHOICE.model_copy(update={"instances": "first"})):
        samples, _ = synthetic.chosen(choice)
        for sample, one in zip(samples, samples.records, strict=True):
            found = Labelled.of(one, choice)
            assert np.array_equal(found.segments > 0, sample.masks.any(0))
            assert not (found.unsure & sample.masks.any(0)).any()


def test_a_prompt_names_a_class_that_nobody_looked_for() -> None:
    one = record("a hot cat and a mug", ("cat", 0.9, square(slice(0, 2), slice(0, 4))))
    with pytest.raises(InputError, match="names 'mug', which the detector was not asked about"):
        check_all_asked(one, SPLIT)
    assert spans_of("a hot dog and a dog", ["dog", "hot dog"]) == {
        "hot dog": (2, 9),
        "dog": (16, 19),
    }


def test_our_own_readers_of_panoptic_narratives_read_it(
    whole: Path, synthetic: SyntheticSet
) -> None:
    read, report = PngBenchmark(whole, "train").read()
    samples, _ = synthetic.chosen(CHOICE)
    model = tiny_grounded.frozen().model
    assert not report.problems and len(read) == 5
    for row, sample in zip(read, samples, strict=True):
        assert row.caption == sample.prompt and row.image_path.stem == sample.id
        kept = load_image(row).astype(int) - shown(model, sample.picture).astype(int)
        assert np.abs(kept).mean() < 6, "a JPEG of the picture"
        targets = load_targets(row)
        for phrase, target in zip(row.phrases, targets, strict=True):
            mask = sample.masks[sample.names.index(phrase.text)]
            assert target.any() and not (target & ~mask).any()
        assert np.array_equal(targets.any(0), sample.masks.any(0))


def test_our_own_readers_of_voc_read_it(whole: Path, synthetic: SyntheticSet) -> None:
    vocabulary, report = Vocabulary.load("mini"), ProblemReport()
    source = VocSource(split="train", masks="voc")
    read = list(read_samples(source, whole, vocabulary, report))
    samples, _ = synthetic.chosen(CHOICE)
    assert not report.problems and [one.id for one in read] == [s.id for s in samples]
    for one, sample in zip(read, samples, strict=True):
        labels = one.load_mask(one.load_image().shape[:2], len(vocabulary.label_names))
        assert {*one.classes} <= {*sample.names} and one.classes
        for name in one.classes:
            assert sample.masks[sample.names.index(name)][labels == vocabulary.index(name)].all()
    names = (whole / "VOCdevkit/VOC2012/labels.txt").read_text().splitlines()
    assert names[0] == "0\tbackground" and names[7] == "7\tcat"


def test_transformers_reads_its_panoptic_annotations(whole: Path) -> None:
    content = json.loads((whole / "annotations/panoptic_train.json").read_text())
    masks = whole / "annotations/panoptic_segmentation/train"
    processor = DetrImageProcessor(format="coco_panoptic", do_resize=False)
    for image, row in zip(content["images"], content["annotations"], strict=True):
        picture = Image.open(whole / "images/train" / image["file_name"])
        made = processor(picture, annotations=row, masks_path=masks, return_tensors="pt")
        labels = made["labels"][0]
        assert labels["class_labels"].tolist() == [s["category_id"] for s in row["segments_info"]]
        assert labels["masks"].flatten(1).sum(1).tolist() == [
            s["area"] for s in row["segments_info"]
        ]


def test_it_says_where_it_is_from(whole: Path, synthetic: SyntheticSet) -> None:
    content = json.loads((whole / "provenance.json").read_text())
    frozen, made = tiny_grounded.frozen(), content["splits"]["train"]
    assert made["model"] == frozen.fingerprint and made["segmenter"] and made["choice"]
    assert made["detector"] == tiny_grounded.config().detector.model_dump(mode="json")
    assert content["licence"] == "CC0" and "highest score" in content["overlaps"]
    for row, one in zip(content["samples"], synthetic.records, strict=True):
        assert (row["id"], row["prompt"], row["seed"]) == (one.id, one.prompt, one.seed)
        assert row["scores"] == {name: round(one.best(name), 4) for name in one.names}
        assert row["quality"] == 0.25
    text = (whole / "README.md").read_text()
    assert frozen.fingerprint in text and "CC0" in text and "255" in text
    assert not {name for name in content["labels"] if content["labels"][name] == 0}


def test_another_choice_is_another_folder(synthetic: SyntheticSet, tmp_path: Path) -> None:
    all_of_it, part = exported(tmp_path, synthetic), exported(tmp_path, synthetic, limit=2)
    assert part["folder"] != all_of_it["folder"] and part["items"] == 2 + 1 + 1
    again = exported(tmp_path, synthetic, limit=2)
    assert again["made"] == 0 and again["kept"] == 4
    coco = tmp_path / exported(tmp_path, synthetic, limit=2, layouts=("coco",))["folder"]
    assert not (coco / "VOCdevkit").exists() and (coco / "images/train").is_dir()


def test_a_killed_run_goes_on_to_the_same_bytes(
    whole: Path, synthetic: SyntheticSet, tmp_path: Path
) -> None:
    script = (
        "import sys; from pathlib import Path; import test_export as t\n"
        "from doomed import stops_after\n"
        "from diffground.papers.grounded.samples import SyntheticSet\n"
        "import diffground.papers.grounded.export as e\n"
        "e.shown = stops_after(3, e.shown)\n"
        "t.exported(Path(sys.argv[1]), SyntheticSet.open(Path(sys.argv[2])))"
    )
    folders = [str(Path(__file__).parent), str(Path(tiny_grounded.__file__).parent)]
    path = os.pathsep.join([*folders, os.environ.get("PYTHONPATH", "")])
    run = subprocess.Popen(
        [sys.executable, "-c", script, str(tmp_path), str(synthetic.folder)],
        env={**os.environ, "PYTHONPATH": path},
    )
    pictures = tmp_path / whole.name / "images/train"
    for _ in range(1200):
        if pictures.is_dir() and len(list(pictures.glob("[!.]*.jpg"))) >= 2 or run.poll():
            break
        time.sleep(0.05)
    run.send_signal(signal.SIGKILL)
    run.wait()
    assert not (tmp_path / whole.name / "manifest.json").exists()
    summary = exported(tmp_path, synthetic)
    assert summary["complete"] and 1 <= summary["kept"] < 5
    assert contents(tmp_path / whole.name) == contents(whole)


def test_a_picture_that_was_damaged_is_made_again(
    whole: Path, synthetic: SyntheticSet, tmp_path: Path
) -> None:
    shutil.copytree(whole, tmp_path / whole.name)
    picture = tmp_path / whole.name / "images/train/train-00003.jpg"
    picture.write_bytes(b"\0" + picture.read_bytes()[1:])
    assert exported(tmp_path, synthetic)["made"] == 1
    assert contents(tmp_path / whole.name) == contents(whole)


def test_samples_of_another_model_and_none_at_all(synthetic: SyntheticSet, tmp_path: Path) -> None:
    samples, _ = synthetic.chosen(CHOICE)
    other = tiny_grounded.Frozen(tiny_grounded.tiny_png.backbone(1).folder, tiny_grounded.config())
    with pytest.raises(InputError, match="another diffusion model than the samples"):
        export({"train": Part(samples, {})}, SPLIT, other, tmp_path, settings())
    with pytest.raises(InputError, match="the choice takes no sample"):
        nothing = {"train": Part(samples[:0], {})}
        export(nothing, SPLIT, tiny_grounded.frozen(), tmp_path, settings())
    with pytest.raises(ValueError, match="in several splits"):
        settings(splits={"train": "train", "val": "train"})


def test_a_sample_that_cannot_be_read_is_no_hole_in_the_dataset(
    synthetic: SyntheticSet, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def broken(*_: Any) -> None:
        raise InputError("part-00000.safetensors", "train-00000", "cannot be read")

    monkeypatch.setattr(of_export, "shown", broken)
    with pytest.raises(InputError, match="cannot be read"):
        exported(tmp_path, synthetic)


def test_labels_are_those_of_the_dataset_that_the_split_is_of() -> None:
    assert ClassSplit.of("voc1").labels()["tvmonitor"] == 20
    coco = ClassSplit.of("coco5")
    assert coco.vocabulary.label_names[coco.labels()["aeroplane"]] == "airplane"


def contents(folder: Path) -> dict[str, bytes]:
    notes = {"manifest.json"}
    return {
        path.relative_to(folder).as_posix(): path.read_bytes()
        for path in sorted(folder.rglob("*"))
        if path.is_file() and path.name not in notes and not path.name.startswith(".")
        and path.suffix != ".jsonl"
    }  # fmt: skip
