"""Images of a dataset: each with its mask if there is one, and the classes that are asked for.

They are a stream. A broken one is noted in a report and left out, and the rest goes on: a line
that cannot be read, a file that is not there, a label that the vocabulary does not know, no class
in the image. No image is opened, and masks are only where the labels come from them. What is found
broken later, when it is loaded, is an :class:`InputError` of the same kind.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffground.data.image_lists import (
    Entry,
    FolderList,
    FolderSource,
    Labels,
    Listing,
    Source,
    known_names,
    open_list,
)
from diffground.data.vocabulary import Vocabulary
from diffground.errors import InputError, ProblemReport
from diffground.io.images import read_image
from diffground.io.labels import read_labels
from diffground.io.paths import is_file
from diffground.metrics.iou import UNSURE


@dataclass(frozen=True)
class LabelledImage:
    """One image, and its label mask if there is one.

    Attributes:
        id: unique in its list; a relative path without suffix (with "/" in a folder of folders).
        image_path: the image.
        mask_path: its label mask, an indexed or grey PNG; None where there is none.
        classes: names in the vocabulary, ascending by label; empty where nobody told them.
        upright: whether the image is turned as its EXIF data say. Masks of public datasets were
            drawn on the pixels as they are stored.
    """

    id: str
    image_path: Path
    mask_path: Path | None
    classes: tuple[str, ...] = ()
    upright: bool = False

    def load_image(self) -> NDArray[np.uint8]:
        """uint8 RGB ``(H, W, 3)``; InputError for a file that is missing or broken."""
        return read_image(self.image_path, upright=self.upright)

    def mask_file(self) -> Path:
        """The label mask's file; InputError if there is none."""
        if self.mask_path is None:
            raise InputError(self.image_path, "mask", f"the dataset has none for {self.id}")
        return self.mask_path

    def load_mask(
        self, size: tuple[int, int] | None = None, classes: int | None = None
    ) -> NDArray[np.uint8]:
        """The labels, uint8 ``(H, W)``: 0 background, 255 unsure.

        ``size`` and ``classes`` are what :func:`~diffground.io.labels.read_labels` checks. Raises
        :class:`InputError` if there is no mask, and for what is wrong with its file.
        """
        return read_labels(self.mask_file(), size=size, classes=classes)


def read_samples(
    source: Source,
    root: str | Path,
    vocabulary: Vocabulary,
    report: ProblemReport,
    *,
    limit: int | None = None,
) -> Iterator[LabelledImage]:
    """The usable samples of a list in its order, one by one; ``report`` fills up meanwhile.

    Args:
        report: gets the broken samples; its ``total`` grows by one with every line looked at.
        limit: looks at the first so many lines only.

    Raises:
        InputError: the list file is missing; at once, not on the first sample.
    """
    if limit is not None and limit < 1:
        raise InputError("samples", "limit", f"{limit} is not at least 1")
    listing = open_list(source, root)

    def stream() -> Iterator[LabelledImage]:
        seen: set[str] = set()
        for number, fields in listing.rows[:limit]:
            report.total += 1
            item = f"line {number}"
            try:
                entry = listing.entry(fields)
                if entry.id in seen:
                    raise InputError(listing.file, "line", f"{entry.id} was listed before")
                seen.add(entry.id)
                item = entry.id
                yield _sample(listing, entry, source.labels, vocabulary)
            except InputError as error:
                report.add(item, error)

    return stream()


def folder_vocabulary(source: FolderSource, root: str | Path) -> Vocabulary:
    """The vocabulary of all names in a folder's CSV, labels by alphabet; InputError if none."""
    listing = FolderList(source, Path(root))
    names = listing.names()
    if not names:
        raise InputError(listing.file, "labels", "no line names a class")
    return Vocabulary.from_names(names)


def _sample(
    listing: Listing, entry: Entry, labels: Labels, vocabulary: Vocabulary
) -> LabelledImage:
    """A line's sample; InputError for what is wrong with it."""
    for path, what in ((entry.image_path, "image"), (entry.mask_path, "mask")):
        if path is not None and not is_file(path):
            raise InputError(path, what, "there is no such file")
    file, classes = listing.file, tuple[str, ...]()
    if labels == "annotation":
        classes = listing.annotated(entry, vocabulary)
    elif labels == "mask":
        if entry.mask_path is None:
            raise InputError(file, "mask", f"none is given for {entry.id}")
        file = entry.mask_path
        about = file.stat()
        present = _labels_in(file, about.st_mtime_ns, about.st_size)
        classes = known_names((x for x in present if x not in (0, UNSURE)), vocabulary, file)
    if labels != "none" and not classes:
        raise InputError(file, "classes", f"there is no class in the image {entry.id}")
    return LabelledImage(entry.id, entry.image_path, entry.mask_path, classes, listing.upright)


# Every step of a pipeline and every row of a table reads the same list again. COCO's masks of train
# and val fit into it.
@lru_cache(maxsize=1 << 17)
def _labels_in(path: Path, changed: int, size: int) -> tuple[int, ...]:
    """The label ids of a mask file of ``size`` bytes that was last changed at ``changed``."""
    return tuple(np.unique(read_labels(path)).tolist())
