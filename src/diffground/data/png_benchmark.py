"""The Panoptic Narrative Grounding benchmark, read through its segment ids.

A narrative is a caption cut into chunks; a chunk that is a noun and names at least one panoptic
segment is a *grounded phrase*: what is trained and evaluated. Nouns without a segment and chunks
that are no nouns are context only. The masks of a phrase are those of its ids in the panoptic PNG,
united. (Public readers go by way of bounding boxes instead and take the first segment with the same
box: two segments with one box then share a mask. :mod:`.png_doctor` counts how often that would
matter.)

Decisions that the data leaves open:

- a phrase's category for things/stuff is that of the *last* segment listed, as in public code;
- an id listed twice counts once;
- a crowd region (``iscrowd``) is a segment like any other, in training and in evaluation;
  :attr:`PngPhrase.crowd` tells;
- narratives without a grounded phrase are skipped and reported, like broken ones.

Beside ``annotations/png_coco_{split}.json`` and ``annotations/panoptic_{split}.json``, two layouts
are known, for images and for panoptic PNGs separately (``layout="auto"`` takes what is there):

======  ===================  =============================================
layout  images               panoptic PNGs
======  ===================  =============================================
png     images/{split}/      annotations/panoptic_segmentation/{split}/
coco    {split}/             annotations/panoptic_{split}/
======  ===================  =============================================
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffground.config import PluralRule
from diffground.data.png_annotations import (
    CategoryMap,
    Chunk,
    Layout,
    PanopticIndex,
    Segment,
    find_folders,
    parse_narrative,
)
from diffground.errors import InputError, ProblemReport
from diffground.io.files import load_json
from diffground.io.images import read_image
from diffground.io.panoptic import read_panoptic, segment_masks
from diffground.io.paths import inside
from diffground.metrics.average_recall import phrase_groups
from diffground.phrases.chunks import align_chunks

#: Reason of the report for narratives that are not broken, only without a grounded phrase.
UNGROUNDED = "no noun of the narrative has a segment, there is nothing to ground"


@dataclass(frozen=True)
class PngPhrase:
    """One grounded phrase of a narrative.

    Attributes:
        text: the phrase as the caption writes it, ``caption[start:end]``.
        start, end: character span in the caption, end exclusive.
        segment_ids: its panoptic segments (at least one, none twice).
        plural_flag: the annotation's own ``plural``.
        category_ids: COCO category of each segment, parallel to ``segment_ids``.
        thing: whether the last segment is of a thing category.
        crowd: whether any of the segments is a crowd region.
    """

    text: str
    start: int
    end: int
    segment_ids: tuple[int, ...]
    plural_flag: bool
    category_ids: tuple[int, ...]
    thing: bool
    crowd: bool = False

    def groups(self, rule: PluralRule = "count") -> tuple[bool, bool]:
        """``(thing, plural)`` under a plural rule, see ``metrics.average_recall``."""
        return phrase_groups(len(self.segment_ids), self.plural_flag, self.thing, rule)

    def is_of(self, categories: frozenset[int]) -> bool:
        """Whether any of its segments is of one of these COCO categories."""
        return not categories.isdisjoint(self.category_ids)


@dataclass(frozen=True)
class PngSample:
    """One narrative with its grounded phrases (at least one, in caption order).

    Attributes:
        id: ``"{image_id}_{row}"``: several narratives may share an image.
        image_id, row: COCO image id; index of the narrative in the file.
        image_path, panoptic_path: files, known to exist when the sample was read.
        caption: the whole narrative.
        size: ``(H, W)`` of the image and of its masks, pixels.
        category_ids: COCO categories that it grounds, ascending, those of dropped phrases too.
        dropped_phrases: grounded phrases left out because of ``max_phrases``.
    """

    id: str
    image_id: int
    row: int
    image_path: Path
    panoptic_path: Path
    caption: str
    phrases: tuple[PngPhrase, ...]
    size: tuple[int, int]
    category_ids: tuple[int, ...]
    dropped_phrases: int = 0

    @property
    def spans(self) -> tuple[tuple[int, int], ...]:
        """The character span of each phrase, as ``FrozenDiffusion.encode_phrases`` takes them."""
        return tuple((phrase.start, phrase.end) for phrase in self.phrases)


class PngBenchmark:
    """One split of the benchmark on disk; its JSON files are read when it is made.

    Attributes:
        image_folder, panoptic_folder, narratives_path: where things are.
        rows: the narratives as the file has them, unchecked.
        panoptic: the images, segments and categories of the panoptic JSON.
    """

    def __init__(self, root: str | Path, split: str, layout: Layout = "auto") -> None:
        """Reads ``png_coco_{split}.json`` and ``panoptic_{split}.json`` under ``root``.

        Raises :class:`InputError` for what makes the whole split unusable: a folder or JSON file
        that is missing, not JSON, or not of the documented structure, an ambiguous layout.
        """
        self.root, self.split = Path(root), split
        self.image_folder, self.panoptic_folder = find_folders(self.root, split, layout)
        self.narratives_path = self.root / "annotations" / f"png_coco_{split}.json"
        rows = load_json(self.narratives_path)
        if not isinstance(rows, list):
            raise InputError(self.narratives_path, "top level", "a list of narratives is expected")
        self.rows: list[Any] = rows
        panoptic_json = self.root / "annotations" / f"panoptic_{split}.json"
        self.panoptic = PanopticIndex.read(panoptic_json)

    @property
    def categories(self) -> CategoryMap:
        """The contiguous category map (133 classes for COCO)."""
        return self.panoptic.categories

    def read(
        self, *, max_phrases: int | None = 30, limit: int | None = None
    ) -> tuple[list[PngSample], ProblemReport]:
        """The usable narratives in file order, and a report of those that were skipped.

        Everything that can be known without opening an image is checked here; the pixels are
        checked by :func:`load_image` and :func:`load_targets`.

        Args:
            max_phrases: keeps the first so many grounded phrases of a narrative (public
                evaluators: 30), the rest is counted in ``dropped_phrases``; None keeps all.
            limit: stops after so many usable narratives.
        """
        assert max_phrases is None or max_phrases > 0, max_phrases
        on_disk = _Listing()
        samples: list[PngSample] = []
        report = ProblemReport()
        for row, narrative in enumerate(self.rows):
            if limit is not None and len(samples) >= limit:
                break
            report.total += 1
            try:
                samples.append(self._sample(row, narrative, max_phrases, on_disk))
            except InputError as error:
                report.add(_name(row, narrative), error)
        return samples, report

    def _sample(
        self, row: int, narrative: Any, max_phrases: int | None, on_disk: _Listing
    ) -> PngSample:
        """One narrative, checked against the panoptic JSON and the files on disk."""
        image_id, caption, chunks = parse_narrative(narrative, self.narratives_path, row)
        image = self.panoptic.image(image_id)
        known = self.panoptic.segments(image_id)
        file, png_name = self.panoptic.path, self.panoptic.png_name(image_id)
        image_path = inside(self.image_folder, image.file_name, file, "images.file_name")
        panoptic_path = inside(self.panoptic_folder, png_name, file, "annotations.file_name")
        for path, what in ((image_path, "image"), (panoptic_path, "panoptic PNG")):
            if not on_disk.has(path):
                raise InputError(path, what, "there is no such file")
        phrases = self._phrases(row, caption, chunks, known)
        return PngSample(
            id=f"{image_id}_{row}",
            image_id=image_id,
            row=row,
            image_path=image_path,
            panoptic_path=panoptic_path,
            caption=caption,
            phrases=phrases[:max_phrases],
            size=image.size,
            category_ids=tuple(sorted({c for phrase in phrases for c in phrase.category_ids})),
            dropped_phrases=len(phrases) - len(phrases[:max_phrases]),
        )

    def _phrases(
        self, row: int, caption: str, chunks: Sequence[Chunk], known: dict[int, Segment]
    ) -> tuple[PngPhrase, ...]:
        """The grounded phrases of a narrative, with their place in the caption."""
        file, here = self.narratives_path, f"narrative {row}: "
        try:
            spans = align_chunks(caption, [chunk.text for chunk in chunks])
        except ValueError as error:
            raise InputError(file, "segments.utterance", f"{here}{error}") from error
        phrases = []
        for chunk, span in zip(chunks, spans, strict=True):
            if not chunk.grounded:
                continue
            if span is None:
                reason = f"{here}no word in the phrase {chunk.text!r}"
                raise InputError(file, "segments.utterance", reason)
            absent = [segment for segment in chunk.segment_ids if segment not in known]
            if absent:
                reason = f"{here}{self.panoptic.path.name} gives the image no segment {absent}"
                raise InputError(file, "segments.segment_ids", reason)
            segments = [known[segment] for segment in chunk.segment_ids]
            phrases.append(
                PngPhrase(
                    text=caption[span[0] : span[1]],
                    start=span[0],
                    end=span[1],
                    segment_ids=chunk.segment_ids,
                    plural_flag=chunk.plural,
                    category_ids=tuple(segment.category_id for segment in segments),
                    thing=self.categories.is_thing(segments[-1].category_id),
                    crowd=any(segment.crowd for segment in segments),
                )
            )
        if not phrases:
            raise InputError(file, "segments.segment_ids", UNGROUNDED)
        return tuple(phrases)


def load_image(sample: PngSample) -> NDArray[np.uint8]:
    """The sample's image, uint8 RGB ``(H, W, 3)``.

    EXIF rotation is not applied: the masks were drawn on the pixels as they are stored. Raises
    :class:`InputError` for a broken file, or one whose size is not the one the JSON gives.
    """
    image = read_image(sample.image_path, upright=False)
    _check_size(sample, sample.image_path, image.shape[:2])
    return image


def load_targets(sample: PngSample) -> NDArray[np.bool_]:
    """The ground-truth mask of each phrase, bool ``(N, H, W)``: its segments, united.

    Raises :class:`InputError` for a broken PNG, one of another size than the JSON gives, or one
    without a pixel of a segment that a phrase names.
    """
    ids = read_panoptic(sample.panoptic_path)
    _check_size(sample, sample.panoptic_path, ids.shape)
    wanted = sorted({segment for phrase in sample.phrases for segment in phrase.segment_ids})
    masks = segment_masks(ids, wanted, file=sample.panoptic_path)
    row = {segment: index for index, segment in enumerate(wanted)}
    return np.stack(
        [masks[[row[s] for s in phrase.segment_ids]].any(axis=0) for phrase in sample.phrases]
    )


def _check_size(sample: PngSample, path: Path, size: tuple[int, ...]) -> None:
    """Raises if a file is not of the sample's ``(H, W)``."""
    if tuple(size) != sample.size:
        reason = f"{tuple(size)} pixels (H, W), the panoptic JSON says {sample.size}"
        raise InputError(path, "size", reason)


class _Listing:
    """Which files exist, by one listing per folder instead of one question per file."""

    def __init__(self) -> None:
        self._names: dict[Path, frozenset[str]] = {}

    def has(self, path: Path) -> bool:
        if path.parent not in self._names:
            folder = path.parent
            try:
                names = (entry.name for entry in folder.iterdir()) if folder.is_dir() else ()
                self._names[folder] = frozenset(names)
            except OSError as error:
                raise InputError.denied(folder, error) from error
        return path.name in self._names[path.parent]


def _name(row: int, narrative: Any) -> str:
    """The id of a narrative that may be broken, for the report."""
    image_id = narrative.get("image_id", "?") if isinstance(narrative, dict) else "?"
    return f"{str(image_id)[:20] if isinstance(image_id, str | int) else '?'}_{row}"
