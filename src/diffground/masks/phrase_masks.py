"""What every method gives for an image and its phrases: a mask for each, and all ways to see them.

A folder of a result::

    overlay.png            the image and its masks, with a legend or the narrative in their colours
    00_puppy.png ...       a mask per phrase in the image's own size, 8 bit, 0 or 255
    panoptic.png           whose each pixel is, as COCO's panoptic PNGs say it; 0 is nobody's
    masks.json             the phrases with score, area, box, and the mask as COCO's RLE; and the
                           segments of panoptic.png

``K`` phrases · ``H, W`` the image's size, pixels
"""

from __future__ import annotations

import json
import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from datetime import UTC, datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffground.errors import InputError
from diffground.io.files import write_whole
from diffground.io.images import write_png
from diffground.io.panoptic import Row, encode_panoptic, first_come, segment_row
from diffground.io.paths import slug
from diffground.reporting.overlays import Comparison, overlay, side_by_side
from diffground.store.manifest import make_folder

if TYPE_CHECKING:
    from supervision import Detections

# Raised when the same masks give other files.
CODE_VERSION: Final = 1

MASKS, OVERLAY, PANOPTIC = "masks.json", "overlay.png", "panoptic.png"
_PANEL = (320, 800)  # least and largest width of a narrative's two panels, pixels
_NAMED = 4  # phrases that a repr names


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PhraseMasks:
    """The masks of an image's phrases, in the order in which they were asked for.

    What ``scores`` are is the method's: ``score`` names it. None is a phrase without one.
    """

    image: NDArray[np.uint8]  # RGB (H, W, 3)
    phrases: tuple[str, ...]  # K; of a narrative, the same words may come twice
    masks: NDArray[np.bool_]  # (K, H, W), may overlap
    scores: tuple[float | None, ...]  # K
    score: str
    narrative: str | None = None  # in which the phrases stand
    spans: tuple[tuple[int, int], ...] = ()  # K, their characters in it, end exclusive
    lost: tuple[int, ...] = ()  # places of phrases that the model never read; their masks are empty

    def __len__(self) -> int:
        return len(self.phrases)

    def __repr__(self) -> str:
        named = [
            f"{phrase!r} {100 * mask.mean():.1f} %"
            for phrase, mask in zip(self.phrases[:_NAMED], self.masks, strict=False)
        ]
        more = [f"{len(self) - _NAMED} more"] if len(self) > _NAMED else []
        height, width = self.size
        return f"<{type(self).__name__} of {width}x{height} pixels: {', '.join(named + more)}>"

    @property
    def size(self) -> tuple[int, int]:
        """``(H, W)`` of the image and its masks."""
        return self.image.shape[0], self.image.shape[1]

    def mask(self, phrase: str | int) -> NDArray[np.bool_]:
        """Where a phrase is, bool (H, W); by its words, or by its place, counted from 0.

        Raises KeyError for words that were not asked for, or that stand in several places.
        """
        if isinstance(phrase, int):
            return np.asarray(self.masks[phrase])
        places = [place for place, words in enumerate(self.phrases) if words == phrase]
        if not places:
            raise KeyError(f"{phrase!r} was not asked for: {', '.join(self.phrases)}")
        if len(places) > 1:
            raise KeyError(f"{phrase!r} was asked for several times: take one by place, {places}")
        return self.mask(places[0])

    def background(self) -> NDArray[np.bool_]:
        """Where no phrase is, bool (H, W)."""
        return np.asarray(~self.masks.any(axis=0))

    @property
    def maps(self) -> NDArray[np.float32] | None:
        """What the masks were cut from: (K, h, w), >= 0, of the image's size or smaller; None: the
        method keeps none."""
        return None

    def notes(self) -> list[str]:
        """A few characters on each phrase, as the overlay shows them: its score."""
        return ["-" if score is None else f"{score:.2f}" for score in self.scores]

    def overlay(self, note: str = "") -> Image.Image:
        """The image with the masks in colours, and the phrases in the same colours.

        Phrases of a narrative stand in it, beneath the image with and without masks, and ``note``
        below; others have a legend.
        """
        if self.narrative is None:
            legend = [f"{p} ({n})" for p, n in zip(self.phrases, self.notes(), strict=True)]
            return Image.fromarray(overlay(self.image, self.masks, legend))
        row = Comparison(
            self.image, self.narrative, self.spans, {"masks": self.masks}, self.notes()
        )
        panel = min(max(self.size[1], _PANEL[0]), _PANEL[1])
        note += f"Numbers: the {self.score}, - for a phrase that was not found in the image."
        return Image.fromarray(side_by_side([row], panel=panel, footnote=note))

    def to_coco(self) -> list[dict[str, Any]]:
        """JSON-ready, a row per phrase: ``text``, ``score``, and :func:`describe_mask` of it."""
        return [
            {"text": text, "score": score, **describe_mask(mask)}
            for text, score, mask in zip(self.phrases, self.scores, self.masks, strict=True)
        ]

    def to_panoptic(self) -> tuple[NDArray[np.uint32], list[Row]]:
        """Whose each pixel is, for COCO's panoptic segmentation: ids (H, W), and their rows.

        The id of the first phrase is 1, of the second 2, ...; 0 is nobody's. A pixel in several
        masks is of the phrase with the highest score, of equal ones the first. A phrase without a
        pixel has no row; ``category_id`` is that of the first phrase with the same words.
        """
        order = sorted(range(len(self)), key=lambda place: -(self.scores[place] or 0.0))
        segments, shown = first_come((self.masks[place] for place in order), self.size)
        places = np.array([0, *(order[each] + 1 for each in shown)], np.uint32)
        ids: NDArray[np.uint32] = places[segments]
        rows = [
            segment_row(ids == number, number, self.phrases.index(self.phrases[number - 1]) + 1)
            for number in sorted(places[1:].tolist())
        ]
        return ids, rows

    def to_supervision(self) -> Detections:
        """For supervision's annotators, trackers and metrics: a detection per mask with a pixel.

        ``confidence`` is the score (NaN: none; what scores are is the method's, not all are below
        1), ``data["class_name"]`` the phrase, ``class_id`` its place, of words that come twice the
        first, counted from 0. Raises InputError where supervision is not installed.
        """
        try:
            from supervision import Detections
        except ModuleNotFoundError as error:
            reason = "it is not installed: pip install supervision"
            raise InputError("supervision", "package", reason) from error
        shown = [place for place, mask in enumerate(self.masks) if mask.any()]
        if not shown:
            return Detections.empty()
        boxes = np.array([describe_mask(self.masks[place])["bbox"] for place in shown])
        boxes[:, 2:] += boxes[:, :2]
        scores = [self.scores[place] for place in shown]
        names = [self.phrases[place] for place in shown]
        return Detections(
            xyxy=boxes,
            mask=self.masks[shown],
            confidence=np.array([np.nan if score is None else score for score in scores]),
            class_id=np.array([self.phrases.index(name) for name in names]),
            data={"class_name": np.array(names)},
        )

    def save(self, folder: str | Path) -> Path:
        """Makes ``folder``, see the top of this module, and returns its path.

        It takes the place of an earlier result as a whole. Raises InputError for a folder with
        files of one's own, which is left alone.
        """
        made = {"phrases": list(self.phrases), "made": datetime.now(UTC).isoformat()}
        make_folder(folder, made, self.write)
        return Path(folder)

    def write(self, folder: Path, about: Mapping[str, Any] | None = None, note: str = "") -> None:
        """Writes the files of a result into a folder that is being made.

        Args:
            about: what else ``masks.json`` says, JSON-ready: the model, the image's name.
            note: see :meth:`overlay`.
        """
        rows, names, notes = self.to_coco(), mask_files(self.phrases), self.notes()
        for place, (row, mask) in enumerate(zip(rows, self.masks, strict=True)):
            row |= {"file": names[place], "lost": place in self.lost, "note": notes[place]}
            if self.spans:
                row["span"] = list(self.spans[place])
            write_png(folder / row["file"], mask.astype(np.uint8) * 255)
        content = {"size": list(self.size), **(about or {}), "scores": self.score}
        if self.narrative is not None:
            content["narrative"] = self.narrative
        ids, segments = self.to_panoptic()
        write_png(folder / PANOPTIC, encode_panoptic(ids))
        write_readable(folder / MASKS, {**content, "phrases": rows, "segments_info": segments})
        write_png(folder / OVERLAY, np.asarray(self.overlay(note)))


def mask_files(phrases: Sequence[str]) -> list[str]:
    """The names of the masks' files in a result's folder."""
    return [f"{place:02d}_{slug(phrase)}.png" for place, phrase in enumerate(phrases)]


def describe_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask ``(H, W)`` as COCO's results have it: ``area``, ``bbox``, ``segmentation``.

    ``bbox`` is ``[x, y, width, height]`` in pixels, zeros for an empty mask; ``segmentation`` is
    the compressed run length encoding ``{"size": [H, W], "counts": text}``.
    """
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "area": int(coco.area(encoded)),
        "bbox": [float(value) for value in coco.toBbox(encoded)],
        "segmentation": {
            "size": [int(side) for side in encoded["size"]],
            "counts": encoded["counts"].decode("ascii"),
        },
    }


def read_mask(segmentation: Mapping[str, Any]) -> NDArray[np.bool_]:
    """The mask ``(H, W)`` of a ``segmentation`` as :func:`describe_mask` makes it."""
    from pycocotools import mask as coco

    counts = str(segmentation["counts"]).encode("ascii")
    return coco.decode({"size": list(segmentation["size"]), "counts": counts}).astype(bool)


def write_readable(path: Path, content: dict[str, Any]) -> None:
    """JSON for people: letters as they are, and lists of numbers on one line."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    # texts have no line ends in JSON, so this cannot meet one
    text = re.sub(r"\[\n([-\d.,\s]+?)\n\s*\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    write_whole(path, lambda part: part.write_text(text + "\n", encoding="utf-8"))
