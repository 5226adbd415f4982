"""What is grounded where nobody names an image: the benchmark's first one, with its narrative."""

from __future__ import annotations

from pathlib import Path

from diffground.data.config import PngSplits
from diffground.data.png_reading import Narratives
from diffground.errors import InputError
from diffground.ground.requests import Request, Words


def first_validation_image(coco: Path, splits: PngSplits) -> Request:
    """The first image of the validation split, and the phrases that its narrative grounds.

    Raises InputError if it has none.
    """
    read = Narratives.read(coco, splits.val, splits.layout, limit=1, max_phrases=None)
    if not read.samples:
        raise InputError(coco, splits.val, "has no narrative to show; give an image of your own")
    found = read.samples[0]
    phrases = tuple(found.caption[slice(*span)] for span in found.spans)
    words = Words(phrases, "given", found.caption, tuple(found.spans))
    return Request("", words, found.image_path)
