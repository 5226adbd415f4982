"""The list files of segmentation datasets: which images there are, and where their files lie.

========  ================================================  ===========================  =========
dataset   list                                              a line                       masks
========  ================================================  ===========================  =========
voc2012   ImageSets/SegmentationAug/{split}.txt             /JPEGImages/x.jpg            grey PNG
          (``masks: aug``)                                  /SegmentationClassAug/x.png
voc2012   ImageSets/Segmentation/{split}.txt                x                            indexed
          (``masks: voc``, and the test split)                                           PNG
coco2014  ImageSets/SegmentationClass/{split}.txt           COCO_train2014_<12 digits>   grey PNG
                                                            and label ids less 1
folder    labels.csv, with a header                         image,labels[,mask]          any
========  ================================================  ===========================  =========

VOC lies in ``VOCdevkit/VOC2012`` and COCO in ``COCO2014`` under the root, or in the root itself. In
a folder's CSV, files are relative to the root and the names of an image's classes are separated by
";". Empty lines are ignored everywhere. Nothing here opens an image or a mask.
"""

from __future__ import annotations

import csv
import re
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Annotated, Literal, Protocol
from xml.etree import ElementTree

from pydantic import Field, model_validator

from diffground.config import Config
from diffground.data.vocabulary import Vocabulary
from diffground.errors import InputError, shortened
from diffground.io.paths import inside

#: Where an image's classes come from: its mask's label ids (as in the public code), what the
#: dataset itself says (VOC's XML files, COCO's lists, a folder's CSV), or nowhere.
Labels = Literal["mask", "annotation", "none"]
VocSplit = Literal["train", "train_aug", "trainval", "trainval_aug", "val", "test"]

_COCO_TOKEN = re.compile(r"COCO_((?:train|val)2014)_(\d{12})", re.ASCII)
_COCO_CLASS = re.compile(r"\d{1,3}", re.ASCII)


class VocSource(Config):
    """PASCAL VOC 2012: 1464 images of train, 10582 of train_aug, 1449 of val, 1456 of test."""

    dataset: Literal["voc2012"] = "voc2012"
    split: VocSplit
    labels: Labels = "mask"
    masks: Literal["aug", "voc"] = "aug"  # the augmented lists and masks, or the kit's own

    @model_validator(mode="after")
    def _exists(self) -> VocSource:
        if self.split == "test" and self.labels != "none":
            raise ValueError("the test split has no labels: set labels to 'none'")
        if self.split.endswith("_aug") and self.masks == "voc":
            raise ValueError(f"{self.split} is in the augmented lists only: set masks to 'aug'")
        return self


class CocoSource(Config):
    """COCO 2014 with segmentation masks: 82081 images of train, 40137 of val."""

    dataset: Literal["coco2014"] = "coco2014"
    split: Literal["train", "val"]
    labels: Labels = "mask"


class FolderSource(Config):
    """Images of your own, and a CSV file of their labels."""

    dataset: Literal["folder"] = "folder"
    labels: Labels = "annotation"
    csv: str = "labels.csv"  # relative to the root


Source = Annotated[VocSource | CocoSource | FolderSource, Field(discriminator="dataset")]


@dataclass(frozen=True)
class Entry:
    """One line of a list: the files that it means (there or not), and its further fields."""

    id: str
    image_path: Path
    mask_path: Path | None
    tags: tuple[str, ...] = ()


class Listing(Protocol):
    """A list file that was read; ``rows`` has each line's number and fields, unchecked."""

    file: Path
    rows: list[tuple[int, list[str]]]
    upright: bool  # whether images are meant as viewers show them, turned by their EXIF data

    def entry(self, fields: list[str]) -> Entry:
        """What a line means; InputError if it is malformed."""

    def annotated(self, entry: Entry, vocabulary: Vocabulary) -> tuple[str, ...]:
        """The image's classes as the dataset names them, ascending by label; InputError if a
        label is unknown to the vocabulary, or the annotation is missing or broken."""


def list_path(source: Source) -> str:
    """Where a source's list lies below its dataset's own folder."""
    match source:
        case VocSource():
            augmented = source.masks == "aug" and source.split != "test"
            return f"ImageSets/Segmentation{'Aug' if augmented else ''}/{source.split}.txt"
        case CocoSource():
            return f"ImageSets/SegmentationClass/{source.split}.txt"
        case FolderSource():
            return source.csv


def open_list(source: Source, root: str | Path) -> Listing:
    """Reads a source's list file; InputError if it (or a folder of annotations) is missing."""
    kinds = {"voc2012": _VocList, "coco2014": _CocoList, "folder": FolderList}
    return kinds[source.dataset](source, Path(root))


class _VocList:
    upright = False

    def __init__(self, source: VocSource, root: Path) -> None:
        self.base = _base(root, "VOCdevkit/VOC2012")
        self.test = source.split == "test"
        self.aug = source.masks == "aug" and not self.test
        self.file = self.base / list_path(source)
        self.rows = _lines(self.file)
        if source.labels == "annotation" and not (self.base / "Annotations").is_dir():
            raise InputError(self.base / "Annotations", "folder", "there is no such folder")

    def entry(self, fields: list[str]) -> Entry:
        wanted = 2 if self.aug else 1
        if len(fields) != wanted:
            what = "an image and a mask" if self.aug else "one image id"
            reason = f"{what} expected, not {shortened(' '.join(fields))}"
            raise InputError(self.file, "line", reason)
        if self.aug:
            image, mask = (
                inside(self.base, field.lstrip("/"), self.file, "line") for field in fields
            )
            if image.stem != mask.stem:
                raise InputError(self.file, "line", f"{image.name} and {mask.name} do not match")
            return Entry(image.stem, image, mask)
        if "/" in fields[0]:  # files are named after it
            raise InputError(self.file, "line", f"{shortened(fields[0])} is no id of an image")
        inside(self.base, fields[0], self.file, "line")
        image = self.base / "JPEGImages" / f"{fields[0]}.jpg"
        mask = self.base / "SegmentationClass" / f"{fields[0]}.png"
        return Entry(fields[0], image, None if self.test else mask)

    def annotated(self, entry: Entry, vocabulary: Vocabulary) -> tuple[str, ...]:
        """From the XML file: all its objects, those marked difficult or truncated as well."""
        path = self.base / "Annotations" / f"{entry.id}.xml"
        if not path.is_file():
            raise InputError(path, "annotation", "there is no such file")
        try:
            tree = ElementTree.parse(path)
        except (ElementTree.ParseError, OSError, ValueError) as error:
            raise InputError(path, "XML", str(error)) from error
        # Not `.//name`: the parts of a person (head, hand, foot) have names as well.
        names = [node.findtext("name", "").strip() for node in tree.getroot().findall("object")]
        return known_names(names, vocabulary, path)


class _CocoList:
    upright = False

    def __init__(self, source: CocoSource, root: Path) -> None:
        self.base = _base(root, "COCO2014")
        self.file = self.base / list_path(source)
        self.rows = _lines(self.file)

    def entry(self, fields: list[str]) -> Entry:
        token = _COCO_TOKEN.fullmatch(fields[0])
        if not token or not all(map(_COCO_CLASS.fullmatch, fields[1:])):
            reason = "COCO_train2014_<12 digits> and class numbers expected"
            reason += f", not {shortened(fields)}"
            raise InputError(self.file, "line", reason)
        image = self.base / "JPEGImages" / token[1] / f"{token[0]}.jpg"
        mask = self.base / "Annotations" / f"{token[2]}.png"
        return Entry(token[0], image, mask, tuple(fields[1:]))

    def annotated(self, entry: Entry, vocabulary: Vocabulary) -> tuple[str, ...]:
        """From the list, which counts the classes from 0 without the background."""
        return known_names([int(tag) + 1 for tag in entry.tags], vocabulary, self.file)


class FolderList:
    """A plain folder; :meth:`names` are all labels of its CSV, for a vocabulary made of them."""

    upright = True

    def __init__(self, source: FolderSource, root: Path) -> None:
        self.base, self.file = root, root / list_path(source)
        lines = enumerate(csv.reader(_text(self.file).splitlines()), start=1)
        try:
            rows = [(number, fields) for number, fields in lines if any(map(str.strip, fields))]
        except csv.Error as error:  # a field of a hundred thousand characters, say
            raise InputError(self.file, "line", f"it is no CSV ({error})") from error
        header = [field.strip() for field in rows[0][1]] if rows else []
        if header not in (["image", "labels"], ["image", "labels", "mask"]):
            reason = (
                f"the first line must be image,labels or image,labels,mask, not {shortened(header)}"
            )
            raise InputError(self.file, "header", reason)
        self.columns, self.rows = len(header), rows[1:]
        self.masked = self.columns == 3
        if source.labels == "mask" and self.columns < 3:
            raise InputError(self.file, "header", "labels are to come from masks: add a column")

    def entry(self, fields: list[str]) -> Entry:
        if len(fields) != self.columns or not fields[0].strip():
            reason = f"{self.columns} fields expected, the first an image, not {shortened(fields)}"
            raise InputError(self.file, "line", reason)
        name = fields[0].strip()
        image = inside(self.base, name, self.file, "line")
        masked = fields[2].strip() if self.masked else ""
        mask = inside(self.base, masked, self.file, "line") if masked else None
        tags = tuple(tag.strip() for tag in fields[1].split(";") if tag.strip())
        return Entry(PurePosixPath(name).with_suffix("").as_posix(), image, mask, tags)

    def annotated(self, entry: Entry, vocabulary: Vocabulary) -> tuple[str, ...]:
        return known_names(entry.tags, vocabulary, self.file)

    def names(self) -> list[str]:
        """Every label of the file once, sorted; malformed lines are passed over."""
        found: set[str] = set()
        for _, fields in self.rows:
            try:
                found.update(self.entry(fields).tags)
            except InputError:
                continue  # whoever reads the samples reports it
        return sorted(found)


def known_names(found: Iterable[int | str], vocabulary: Vocabulary, file: Path) -> tuple[str, ...]:
    """The vocabulary's names of label ids, or of names, once each, ascending by label; InputError
    for one that it does not have."""
    try:
        labels = {x if isinstance(x, int) else vocabulary.index(x) for x in found}
        return vocabulary.names_of(labels)
    except InputError as error:
        raise InputError(file, "labels", error.reason) from error


def _base(root: Path, below: str) -> Path:
    """The dataset's own folder: ``root / below``, or ``root`` if that is it."""
    for base in (root / below, root):
        if (base / "ImageSets").is_dir():
            return base
    raise InputError(root, "ImageSets", f"there is no such folder here, nor in {below}")


def _lines(file: Path) -> list[tuple[int, list[str]]]:
    """Number and fields of each line that is not empty."""
    lines = enumerate(_text(file).splitlines(), start=1)
    return [(number, line.split()) for number, line in lines if line.strip()]


def _text(file: Path) -> str:
    if not file.is_file():
        raise InputError(file, "list", "there is no such file")
    try:
        return file.read_text(encoding="utf-8-sig")  # spreadsheets put a mark at the start
    except (OSError, UnicodeDecodeError) as error:
        raise InputError(file, "list", str(error)) from error
