"""The benchmark's two JSON files and its folders: found, read and checked.

``panoptic_{split}.json`` (COCO): ``images`` (id, file_name, height, width), ``annotations``
(image_id, file_name, segments_info: id, category_id, bbox, iscrowd), ``categories`` (id, name,
isthing). ``png_coco_{split}.json``: a list of narratives, each with ``image_id`` (a string of
digits), ``caption`` and ``segments`` (utterance, segment_ids as strings, noun, plural).
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

from diffground.errors import InputError, shortened
from diffground.io.files import DIGITS, load_json
from diffground.io.paths import inside

log = logging.getLogger(__name__)

Layout = Literal["auto", "png", "coco"]

_MALFORMED = (KeyError, TypeError, ValueError, AttributeError, OverflowError)  # 1e999 is an inf

_IMAGE_FOLDERS = {"png": "images/{split}", "coco": "{split}"}
_PNG_FOLDERS = {
    "png": "annotations/panoptic_segmentation/{split}",
    "coco": "annotations/panoptic_{split}",
}


@dataclass(frozen=True)
class CategoryMap:
    """The panoptic categories, numbered contiguously in the order of their ids.

    COCO's 133 ids have gaps (1..200); a class head counts 0..132.

    Attributes:
        ids: COCO category id of each class, ascending.
        names: name of each class.
        things: whether each class is a thing (countable) or stuff.
    """

    ids: tuple[int, ...]
    names: tuple[str, ...]
    things: tuple[bool, ...]

    @classmethod
    def from_panoptic(
        cls, categories: Sequence[Mapping[str, Any]], file: str | Path = "panoptic JSON"
    ) -> CategoryMap:
        """From the ``categories`` list of a panoptic JSON; InputError for a missing key."""
        try:
            rows = sorted((int(c["id"]), str(c["name"]), bool(c["isthing"])) for c in categories)
        except (KeyError, TypeError, ValueError, OverflowError) as error:
            reason = f"each needs id, name and isthing ({shortened(error)})"
            raise InputError(file, "categories", reason) from error
        if not rows or len({row[0] for row in rows}) != len(rows):
            raise InputError(file, "categories", "empty, or an id stands twice")
        ids, names, things = zip(*rows, strict=True)
        return cls(ids, names, things)

    def __len__(self) -> int:
        return len(self.ids)

    def index(self, category_id: int) -> int:
        """The contiguous class ``0 .. len-1`` of a COCO category id; KeyError if unknown."""
        try:
            return self.ids.index(category_id)
        except ValueError:
            raise KeyError(f"category {category_id} is not in the map") from None

    def is_thing(self, category_id: int) -> bool:
        """Whether a COCO category id is a thing."""
        return self.things[self.index(category_id)]


@dataclass(frozen=True)
class Segment:
    """One entry of ``segments_info``. ``bbox`` is ``(x, y, w, h)`` in pixels, None if not given."""

    id: int
    category_id: int
    crowd: bool
    bbox: tuple[float, ...] | None


@dataclass(frozen=True)
class ImageEntry:
    """One entry of ``images``; ``size`` is ``(H, W)`` in pixels."""

    file_name: str
    size: tuple[int, int]


@dataclass(frozen=True)
class PanopticIndex:
    """A panoptic JSON by image id. Segments are parsed when they are asked for (COCO has 1.3 M).

    Attributes:
        path: the file.
        categories: its categories.
        images: entry of each image id.
        annotations: raw annotation of each image id.
    """

    path: Path
    categories: CategoryMap
    images: Mapping[int, ImageEntry]
    annotations: Mapping[int, Mapping[str, Any]]

    @classmethod
    def read(cls, path: Path) -> PanopticIndex:
        """Reads the file; InputError if it is missing, no JSON, or lacks a documented key.

        Of ``images`` and ``annotations``, single malformed records are named in the log and left
        out.
        """
        content = load_json(path)
        if not isinstance(content, dict):
            raise InputError(path, "top level", "a panoptic JSON object is expected")
        for key in ("images", "annotations", "categories"):
            if not isinstance(content.get(key), list):
                raise InputError(path, key, "a list is expected")
        categories = CategoryMap.from_panoptic(content["categories"], path)
        images: dict[int, ImageEntry] = {}
        annotations: dict[int, Mapping[str, Any]] = {}
        # One bad record costs its own narratives, which say that their image is not there.
        for part in ("images", "annotations"):
            for record in content[part]:
                try:
                    if part == "images":
                        size = int(record["height"]), int(record["width"])
                        images[int(record["id"])] = ImageEntry(str(record["file_name"]), size)
                    else:
                        annotations[int(record["image_id"])] = record
                except _MALFORMED as error:
                    log.warning("%s: %s: one is left out (%s)", path, part, shortened(error))
        return cls(path, categories, images, annotations)

    def image(self, image_id: int) -> ImageEntry:
        """The entry of an image; InputError if the file has none."""
        if image_id not in self.images:
            raise InputError(self.path, "images", f"no image has the id {image_id}")
        return self.images[image_id]

    def png_name(self, image_id: int) -> str:
        """File name of the image's panoptic PNG; InputError if it is not annotated."""
        name = self._annotation(image_id).get("file_name")
        if not isinstance(name, str):
            reason = f"image {image_id}: {shortened(name)}"
            raise InputError(self.path, "annotations.file_name", reason)
        return name

    def segments(self, image_id: int) -> dict[int, Segment]:
        """The segments of an image by id, in the file's order.

        Raises :class:`InputError` for an image without annotation, an entry without id or
        category, and a category that ``categories`` does not know.
        """
        found: dict[int, Segment] = {}
        where = "annotations.segments_info"
        annotation = self._annotation(image_id)
        try:
            for entry in annotation["segments_info"]:
                segment = Segment(
                    id=int(entry["id"]),
                    category_id=int(entry["category_id"]),
                    crowd=bool(entry.get("iscrowd", 0)),
                    bbox=tuple(map(float, entry["bbox"])) if "bbox" in entry else None,
                )
                found[segment.id] = segment
        except _MALFORMED as error:
            raise InputError(self.path, where, f"image {image_id}: {shortened(error)}") from error
        unknown = {s.category_id for s in found.values()} - set(self.categories.ids)
        if unknown:
            reason = f"image {image_id}: no category has the id {sorted(unknown)}"
            raise InputError(self.path, where, reason)
        return found

    def _annotation(self, image_id: int) -> Mapping[str, Any]:
        if image_id not in self.annotations:
            raise InputError(self.path, "annotations", f"image {image_id} is not annotated")
        return self.annotations[image_id]


@dataclass(frozen=True)
class Chunk:
    """One chunk of a narrative: its utterance, segment ids (none twice) and two flags."""

    text: str
    segment_ids: tuple[int, ...]
    noun: bool
    plural: bool

    @property
    def grounded(self) -> bool:
        """A noun with at least one segment: what the benchmark calls a grounded phrase."""
        return self.noun and bool(self.segment_ids)


def parse_narrative(narrative: Any, file: Path, row: int) -> tuple[int, str, list[Chunk]]:
    """``(image id, caption, chunks)`` of one row of ``png_coco_{split}.json``.

    Raises :class:`InputError` naming the row and key that is missing or of another type.
    """

    def need(condition: bool, key: str, reason: str) -> None:
        if not condition:
            raise InputError(file, key, f"narrative {row}: {reason}")

    need(isinstance(narrative, dict), "narrative", "a JSON object is expected")
    image_id, caption = narrative.get("image_id"), narrative.get("caption")
    need(_digits(image_id), "image_id", f"digits are expected, not {shortened(image_id)}")
    need(isinstance(caption, str) and caption.strip() != "", "caption", "missing or empty")
    need(_is_text(caption), "caption", f"no text in Unicode: {shortened(caption)}")
    segments = narrative.get("segments")
    need(isinstance(segments, list), "segments", "a list of chunks is expected")
    chunks = []
    for number, entry in enumerate(segments):
        name = f"chunk {number}: "
        need(isinstance(entry, dict), "segments", f"{name}a JSON object is expected")
        text, ids = entry.get("utterance"), entry.get("segment_ids")
        need(isinstance(text, str), "segments.utterance", f"{name}a string, not {shortened(text)}")
        listed = isinstance(ids, list) and all(map(_digits, ids))
        need(listed, "segments.segment_ids", f"{name}a list of digits, not {shortened(ids)}")
        for flag in ("noun", "plural"):
            given = isinstance(entry.get(flag), bool)
            need(given, f"segments.{flag}", f"{name}true or false is expected")
        unique = tuple(dict.fromkeys(int(segment) for segment in ids))
        chunks.append(Chunk(text, unique, entry["noun"], entry["plural"]))
    return int(image_id), caption, chunks


def find_folders(root: Path, split: str, layout: Layout) -> tuple[Path, Path]:
    """The image folder and the panoptic PNG folder of a split, both existing.

    Raises :class:`InputError` naming the folders that were looked for; under ``auto`` also when
    both layouts' folders are there and are not the same folder.
    """
    if not root.is_dir():
        raise InputError(root, "root", "there is no such folder")
    inside(root, split, root, "split")
    return (
        _pick(root, split, layout, _IMAGE_FOLDERS, "image folder"),
        _pick(root, split, layout, _PNG_FOLDERS, "panoptic PNG folder"),
    )


def _pick(root: Path, split: str, layout: Layout, names: Mapping[str, str], what: str) -> Path:
    """The one folder of ``names`` that exists, or the one that ``layout`` asks for."""
    wanted = list(names) if layout == "auto" else [layout]
    candidates = [root / names[key].format(split=split) for key in wanted]
    found = [folder for folder in candidates if folder.is_dir()]
    if not found:
        shown = " or ".join(str(folder.relative_to(root)) for folder in candidates)
        raise InputError(root, what, f"there is no folder {shown}")
    if len({folder.resolve() for folder in found}) > 1:
        shown = " and ".join(str(folder.relative_to(root)) for folder in found)
        raise InputError(root, what, f"both {shown} are there; set layout to 'png' or 'coco'")
    return found[0]


def _digits(value: Any) -> bool:
    """Ids are strings of digits in the released files; plain integers are taken as well."""
    if isinstance(value, str):
        return value.isascii() and value.isdigit() and len(value) <= DIGITS
    return isinstance(value, int) and not isinstance(value, bool) and value >= 0


def _is_text(text: str) -> bool:
    """JSON can spell halves of characters, which no tokenizer takes."""
    try:
        text.encode()
    except UnicodeEncodeError:
        return False
    return True
