"""Readers of VOC, COCO and plain folders, on the mini world's files and on broken ones."""

from __future__ import annotations

import shutil
from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from pydantic import TypeAdapter, ValidationError
from tiny_world import SMALL

from diffground.data.image_lists import CocoSource, FolderSource, Source, VocSource
from diffground.data.labelled_images import LabelledImage, folder_vocabulary, read_samples
from diffground.data.vocabulary import Vocabulary
from diffground.errors import InputError, ProblemReport
from diffground.io.images import write_png
from diffground.io.labels import read_labels
from diffground.segmenters.crops import usable
from diffground.world.coco_segmentation import make_coco2014
from diffground.world.config import WorldConfig
from diffground.world.voc import make_voc2012

MINI = Vocabulary.load("mini")
COUNTS = {"voc2012": {"train": 6, "aug": 4, "val": 3}, "coco2014": {"train": 5, "val": 3}}


@pytest.fixture(scope="module")
def world(tmp_path_factory: pytest.TempPathFactory) -> Path:
    root = tmp_path_factory.mktemp("world")
    config = WorldConfig.model_validate(SMALL | COUNTS)
    make_voc2012(root / "voc2012", config)
    make_coco2014(root / "coco2014", config)
    return root


@pytest.fixture
def voc(world: Path, tmp_path: Path) -> Path:
    """A copy of VOC that a test may break: its own folder, ``VOC2012``."""
    return Path(shutil.copytree(world / "voc2012/VOCdevkit/VOC2012", tmp_path / "VOC2012"))


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two images, one in a folder below and turned by its EXIF data, and their CSV."""
    pixels = np.zeros((20, 30, 3), np.uint8)
    write_png(tmp_path / "cat.png", pixels)
    exif = Image.Exif()
    exif[0x0112] = 6
    (tmp_path / "more").mkdir()
    Image.fromarray(pixels).save(tmp_path / "more/sofa.jpg", exif=exif)
    csv = "image,labels\ncat.png,cat\n\nmore/sofa.jpg, sofa ;cat;\n"
    (tmp_path / "labels.csv").write_text(csv)
    return tmp_path


def read(
    source: Source, root: Path, vocabulary: Vocabulary = MINI, **options: object
) -> tuple[list[LabelledImage], ProblemReport]:
    report = ProblemReport()
    return list(read_samples(source, root, vocabulary, report, **options)), report


def reasons(report: ProblemReport) -> dict[str, str]:
    return {problem.item: f"{problem.field}: {problem.reason}" for problem in report.problems}


# What is whole.


@pytest.mark.parametrize("masks", ["aug", "voc"])
def test_voc(world: Path, masks: str) -> None:
    source = VocSource(split="train", masks=masks)
    samples, report = read(source, world / "voc2012")
    assert len(samples) == report.total == 6 and not report.problems
    name = {"aug": "SegmentationClassAug", "voc": "SegmentationClass"}[masks]
    for sample in samples:
        assert sample.mask_path is not None and sample.mask_path.parent.name == name
        assert sample.id == sample.image_path.stem == sample.mask_path.stem
        image = sample.load_image()
        labels = np.unique(sample.load_mask(image.shape[:2])).tolist()
        assert labels[0] == 0 and labels[-1] == 255
        assert sample.classes == tuple(MINI.classes[label].name for label in labels[1:-1])
    assert read(source, world / "voc2012/VOCdevkit/VOC2012")[0] == samples
    trainable, report = usable(samples, len(MINI.names))
    assert trainable == samples and not report.problems, "a list's images are what is trained on"


@pytest.mark.parametrize(
    ("split", "count"), [("train_aug", 10), ("trainval", 9), ("trainval_aug", 13), ("val", 3)]
)
def test_voc_splits(world: Path, split: str, count: int) -> None:
    samples, report = read(VocSource(split=split), world / "voc2012")
    assert len(samples) == len({sample.id for sample in samples}) == count == report.total


def test_both_kinds_of_voc_masks_have_the_same_classes(world: Path) -> None:
    found = [
        [(s.id, s.classes) for s in read(VocSource(split="val", masks=m), world / "voc2012")[0]]
        for m in ("aug", "voc")
    ]
    assert found[0] == found[1]


def test_voc_annotations(voc: Path) -> None:
    """The objects of the XML file, not their parts; ascending by label, each once."""
    (voc / "Annotations").mkdir()
    xml = """<annotation><object><name>boat</name><part><name>head</name></part></object>
        <object><name>ball</name><difficult>1</difficult></object>
        <object><name>boat</name></object></annotation>"""
    names = (voc / "ImageSets/Segmentation/train.txt").read_text().split()
    for name in names:
        (voc / f"Annotations/{name}.xml").write_text(xml)
    (voc / f"Annotations/{names[1]}.xml").write_text("<annotation><object>")
    (voc / f"Annotations/{names[2]}.xml").write_text(xml.replace("boat", "ship"))
    (voc / f"Annotations/{names[3]}.xml").write_text("<annotation/>")
    (voc / f"Annotations/{names[4]}.xml").unlink()
    samples, report = read(VocSource(split="train", labels="annotation"), voc)
    assert [(s.id, s.classes) for s in samples] == [
        (names[0], ("ball", "boat")),
        (names[5], ("ball", "boat")),
    ]
    found = reasons(report)
    assert found[names[1]].startswith("XML: ")
    assert found[names[2]].startswith("labels: there is no class 'ship'")
    assert found[names[3]].startswith("classes: there is no class in the image")
    assert found[names[4]] == "annotation: there is no such file"


def test_voc_test_split(voc: Path) -> None:
    names = (voc / "ImageSets/Segmentation/val.txt").read_text()
    (voc / "ImageSets/Segmentation/test.txt").write_text(names)
    shutil.rmtree(voc / "SegmentationClass")
    samples, report = read(VocSource(split="test", labels="none"), voc)
    assert [sample.id for sample in samples] == names.split() and not report.problems
    assert all(sample.mask_path is None and sample.classes == () for sample in samples)
    with pytest.raises(InputError, match="the dataset has none"):
        samples[0].load_mask((64, 64))
    with pytest.raises(ValidationError, match="set labels to 'none'"):
        VocSource(split="test")
    with pytest.raises(ValidationError, match="set masks to 'aug'"):
        VocSource(split="train_aug", masks="voc")


@pytest.mark.parametrize("split", ["train", "val"])
def test_coco(world: Path, split: str) -> None:
    """The list's own class numbers and the masks say the same."""
    samples, report = read(CocoSource(split=split), world / "coco2014")
    assert len(samples) == COUNTS["coco2014"][split] and not report.problems
    listed, _ = read(CocoSource(split=split, labels="annotation"), world / "coco2014")
    assert listed == samples and all(sample.classes for sample in samples)
    assert all(sample.id.startswith(f"COCO_{split}2014_0000") for sample in samples)


def test_folder(folder: Path) -> None:
    vocabulary = folder_vocabulary(FolderSource(), folder)
    assert vocabulary.names == ("cat", "sofa")
    samples, report = read(FolderSource(), folder, vocabulary)
    assert [(s.id, s.classes) for s in samples] == [
        ("cat", ("cat",)),
        ("more/sofa", ("cat", "sofa")),
    ]
    assert report.total == 2 and not report.problems
    assert [sample.load_image().shape for sample in samples] == [(20, 30, 3), (30, 20, 3)]


def test_folder_with_masks(folder: Path) -> None:
    mask = np.full((20, 30), 2, np.uint8)
    write_png(folder / "masks/cat.png", mask)
    write_png(folder / "masks/sofa.png", mask)  # of the pixels as stored, not as shown
    (folder / "labels.csv").write_text(
        "image,labels,mask\ncat.png,cat,masks/cat.png\nmore/sofa.jpg,cat,masks/sofa.png\n"
        "more/../cat.png,cat,\n.hidden.png,cat,\n"
    )
    vocabulary = Vocabulary.from_names(["cat", "sofa"])
    samples, report = read(FolderSource(labels="mask"), folder, vocabulary)
    assert [(s.id, s.classes) for s in samples] == [("cat", ("sofa",)), ("more/sofa", ("sofa",))]
    with pytest.raises(InputError, match="size: the mask is 30x20, its image 20x30"):
        samples[1].load_mask(samples[1].load_image().shape[:2])
    assert reasons(report) == {
        "line 4": "line: 'more/../cat.png' is no path within the dataset, or a hidden one",
        "line 5": "line: '.hidden.png' is no path within the dataset, or a hidden one",
    }
    with pytest.raises(InputError, match="add a column"):
        (folder / "labels.csv").write_text("image,labels\n")
        read(FolderSource(labels="mask"), folder, vocabulary)


# Parts of a list.


def test_a_limit_takes_the_first_lines(world: Path) -> None:
    root, source = world / "voc2012", VocSource(split="train_aug")
    assert read(source, root, limit=4)[0] == read(source, root)[0][:4]
    with pytest.raises(InputError):
        read_samples(source, root, MINI, ProblemReport(), limit=0)


def test_samples_are_a_stream(voc: Path) -> None:
    """Nothing is opened before it is asked for, and no image at all."""
    shutil.rmtree(voc / "JPEGImages")
    (voc / "JPEGImages").mkdir()
    for line in (voc / "ImageSets/Segmentation/train.txt").read_text().split():
        (voc / f"JPEGImages/{line}.jpg").write_bytes(b"")
    report = ProblemReport()
    stream = read_samples(VocSource(split="train"), voc, MINI, report)
    assert report.total == 0
    first = next(stream)
    assert report.total == 1 and first.classes
    shutil.rmtree(voc / "SegmentationClassAug")
    assert list(stream) == [] and report.total == 6 and len(report.problems) == 5


# What is broken.


def test_broken_samples_are_reported(voc: Path) -> None:
    path = voc / "ImageSets/SegmentationAug/train.txt"
    lines = path.read_text().splitlines()
    names = [Path(line.split()[0]).stem for line in lines]
    whole = names[5]
    masks = voc / "SegmentationClassAug"
    write_png(masks / f"{names[0]}.png", np.zeros((64, 64), np.uint8))  # no class
    jpeg = voc / f"JPEGImages/{names[1]}.jpg"
    jpeg.write_bytes(jpeg.read_bytes()[:-300])  # unreadable
    write_png(masks / f"{names[2]}.png", np.ones((32, 64), np.uint8))  # of another size
    write_png(masks / f"{names[3]}.png", np.full((64, 64), 99, np.uint8))  # unknown label
    (voc / f"JPEGImages/{names[4]}.jpg").unlink()
    a_jpg, b_png = f"/JPEGImages/{whole}.jpg", f"/SegmentationClassAug/{whole}.png"
    bad = [
        a_jpg,
        f"{a_jpg} {b_png} 3",
        f"/JPEGImages/../../{whole}.jpg {b_png}",
        f"{a_jpg} /SegmentationClassAug/other.png",
        f"{a_jpg} {b_png}",
        "",
    ]
    path.write_text("\n".join([*lines, *bad]) + "\n")
    samples, report = read(VocSource(split="train"), voc)
    assert [sample.id for sample in samples] == [names[1], names[2], whole]  # not opened
    with pytest.raises(InputError, match="cut short"):
        samples[0].load_image()
    with pytest.raises(InputError, match="the mask is 64x32, its image 64x64"):
        samples[1].load_mask(samples[1].load_image().shape[:2])
    assert report.total == 11
    found = reasons(report)
    assert found[names[0]].startswith("classes: there is no class in the image")
    assert found[names[3]] == "labels: no class has the label [99]"
    assert found[names[4]] == "image: there is no such file"
    assert [found[f"line {n}"].split(":")[0] for n in range(7, 12)] == ["line"] * 5
    assert found["line 11"] == f"line: {whole} was listed before"
    assert report.to_dict()["skipped"] == 8


def test_masks_must_be_labels(voc: Path) -> None:
    names = (voc / "ImageSets/Segmentation/train.txt").read_text().split()
    write_png(voc / f"SegmentationClass/{names[0]}.png", np.zeros((64, 64, 3), np.uint8))
    cut = voc / f"SegmentationClass/{names[1]}.png"
    cut.write_bytes(cut.read_bytes()[:-30])
    samples, report = read(VocSource(split="train", masks="voc"), voc)
    assert [sample.id for sample in samples] == names[2:]
    found = reasons(report)
    assert found[names[0]].startswith("mode: the pixels are RGB") and "pixels: " in found[names[1]]


def test_malformed_coco_lines(world: Path, tmp_path: Path) -> None:
    root = Path(shutil.copytree(world / "coco2014", tmp_path / "coco2014"))
    path = root / "COCO2014/ImageSets/SegmentationClass/val.txt"
    first = path.read_text().splitlines()[0].split()[0]
    path.write_text(
        f"{first} 99\nCOCO_val2014_12 3\n{first.replace('val', 'test')}\n{first} x\n"
        f"{first.replace('00000', '99999')} 3\n"
    )
    samples, report = read(CocoSource(split="val", labels="annotation"), root)
    assert samples == [] and report.total == 5
    found = reasons(report)
    assert found[first] == "labels: no class has the label [100]"
    assert all(found[f"line {n}"].startswith("line: COCO_train2014_") for n in (2, 3, 4))
    assert found[first.replace("00000", "99999")] == "image: there is no such file"


def test_broken_folders(folder: Path) -> None:
    csv = folder / "labels.csv"
    vocabulary = Vocabulary.from_names(["cat", "sofa"])
    csv.write_text('image,labels\ncat.png\ncat.png,dog\nmore/sofa.jpg," ; "\ngone.png,cat\n')
    samples, report = read(FolderSource(), folder, vocabulary)
    assert samples == [] and report.total == 4
    found = reasons(report)
    assert found.pop("cat").startswith("labels: there is no class 'dog'. There are cat, sofa.")
    assert found == {
        "line 2": "line: 2 fields expected, the first an image, not ['cat.png']",
        "more/sofa": "classes: there is no class in the image more/sofa",
        "gone": "image: there is no such file",
    }
    csv.write_text("cat.png,cat\n")
    with pytest.raises(InputError, match="the first line must be image,labels"):
        read(FolderSource(), folder, vocabulary)
    csv.write_text("image,labels\n")
    with pytest.raises(InputError, match="no line names a class"):
        folder_vocabulary(FolderSource(), folder)


def test_missing_lists(world: Path, tmp_path: Path) -> None:
    for source, message in (
        (VocSource(split="train"), "VOCdevkit/VOC2012"),
        (CocoSource(split="train"), "COCO2014"),
        (FolderSource(), "there is no such file"),
    ):
        with pytest.raises(InputError, match=message):
            read_samples(source, tmp_path, MINI, ProblemReport())
    with pytest.raises(InputError, match="test.txt: list: there is no such file"):
        read(VocSource(split="test", labels="none"), world / "voc2012")
    with pytest.raises(InputError, match="Annotations: folder"):
        read(VocSource(split="val", labels="annotation"), world / "voc2012")


def test_sources_as_configuration() -> None:
    adapter: TypeAdapter[Source] = TypeAdapter(Source)
    source = adapter.validate_python({"dataset": "coco2014", "split": "train"})
    assert source == CocoSource(split="train")
    with pytest.raises(ValidationError):  # an option that would be ignored
        adapter.validate_python({"dataset": "coco2014", "split": "train", "masks": "aug"})


def test_a_mask_is_opened_again_only_if_it_was_changed(world: Path, tmp_path: Path, monkeypatch):
    root = Path(shutil.copytree(world / "voc2012", tmp_path / "voc2012"))
    opened: list[str] = []

    def noted(path, **options):
        opened.append(Path(path).stem)
        return read_labels(path, **options)

    monkeypatch.setattr("diffground.data.labelled_images.read_labels", noted)
    source = VocSource(split="train")
    first, _ = read(source, root)
    assert len(opened) == 6 and read(source, root)[0] == first and len(opened) == 6
    mask = first[2].mask_path
    labels = read_labels(mask).copy()
    labels[labels == MINI.index(first[2].classes[0])] = 0
    labels[0, 0] = MINI.index("mug")
    write_png(mask, labels)
    again, _ = read(source, root)
    assert opened[6:] == [first[2].id] and "mug" in again[2].classes
