"""Generated pictures with their masks, class by class, like Figure 1 of 003 and 004."""

from __future__ import annotations

from collections.abc import Sequence

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffground.papers.grounded.figure_config import GroundingFigureConfig
from diffground.papers.grounded.generator import GroundedGenerator, GroundedMasks
from diffground.papers.grounded.prompts import spans_of
from diffground.reporting.lettering import coloured_words
from diffground.reporting.overlays import paint, palette
from diffground.reporting.scale import SCALE_WORDS, Scale
from diffground.reporting.sheet import SheetRow, resized, sheet
from diffground.seeds import derive_seed

_PANEL = 176  # pixels


def figure1(generator: GroundedGenerator, config: GroundingFigureConfig) -> Image.Image:
    """Generates the pictures, a row each: the picture, all masks, and each class by itself.

    Below a row is its prompt, class words in the colours of their masks; behind each is its score,
    and whether the module has seen the class in its training. None is chosen by how it looks.
    """
    results = generator.batch(
        [row.prompt for row in config.rows],
        [row.classes for row in config.rows],
        [derive_seed(config.seed, number) for number in range(len(config.rows))],
    )
    return drawn(results, config.scale)


def drawn(results: Sequence[GroundedMasks], scale: Scale) -> Image.Image:
    """The figure of pictures that were generated."""
    widest = max(len(result) for result in results)
    classes = tuple(f"class {number}" for number in range(1, widest + 1))
    heading = f"Figure 1: pictures and masks of prompts, {SCALE_WORDS[scale]}."
    footnote = (
        "Numbers: mean probability inside the mask, - where it is empty. Unseen: the module never "
        "learned from pictures of that class."
    )
    rows = [_row(result, widest) for result in results]
    page = sheet(("picture", "masks", *classes), rows, _PANEL, heading=heading, footnote=footnote)
    return Image.fromarray(page)


def _row(result: GroundedMasks, widest: int) -> SheetRow:
    spans = spans_of(result.prompt, result.phrases)
    # In the order of the sentence, as the caption is coloured.
    order = [result.phrases.index(name) for name in spans]
    colours = [palette(len(result))[place] for place in order]
    notes = [result.notes()[place] for place in order]
    pictures = [
        resized(result.image, _PANEL, smooth=True),
        paint(result.image, result.masks[order], colours, _PANEL),
        *(_cut_out(result.image, result.masks[place]) for place in order),
    ]
    empty = Image.new("RGB", pictures[0].size, "white")
    pictures += [empty] * (widest - len(order))
    return SheetRow(pictures, coloured_words(result.prompt, list(spans.values()), colours, notes))


def _cut_out(image: NDArray[np.uint8], mask: NDArray[np.bool_]) -> Image.Image:
    """The picture inside of a mask, on black."""
    return resized(np.where(mask[..., None], image, np.uint8(0)), _PANEL, smooth=True)
