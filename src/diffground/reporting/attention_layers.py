"""Figure 5 of Li et al. (section 4.5): which phrase each pixel attends to, layer by layer.

The paper takes the softmax over phrases of a layer's cross-attention scores and gives each pixel
the phrase with the largest. The softmax keeps the order of a pixel's scores, so that is the phrase
with the largest score.

``K`` phrases · ``h, w`` a layer's map · ``H, W`` the image
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffground.reporting.lettering import coloured_words
from diffground.reporting.overlays import paint, palette
from diffground.reporting.scale import SCALE_WORDS, Scale
from diffground.reporting.sheet import SheetRow, sheet

_HEADING = (
    "Which phrase does each pixel attend to? Every pixel is tinted in the colour of one phrase of "
    "the text above its row: the one whose attention score is highest there. L: layer, with the "
    "size of its attention map."
)
_WITH_TRUTH = (
    " Last column: the masks as annotated, striped where several phrases share a pixel, grey where "
    "none has it."
)


class LayerRow(NamedTuple):
    """One narrative through the layers.

    Attributes:
        image: uint8 RGB ``(H, W, 3)``.
        caption: the narrative.
        spans: character span of each of the K phrases, in order, end exclusive.
        layers: title and scores ``(K, h, w)`` of each layer shown, of any size; the title names
            layer and size: "L = 3, 8 x 8".
        truth: bool ``(K, H, W)``, for a last column; None = none.
    """

    image: NDArray[np.uint8]
    caption: str
    spans: Sequence[tuple[int, int]]
    layers: Sequence[tuple[str, NDArray[np.floating]]]
    truth: NDArray[np.bool_] | None = None


def attention_layers(
    rows: Sequence[LayerRow], *, scale: Scale, panel: int = 256
) -> NDArray[np.uint8]:
    """One row per narrative: its caption, then image, layers and truth; uint8 RGB.

    Args:
        rows: all with the same layer titles, all with a truth or none.
        scale: said in the first line.
        panel: width of a panel, pixels.

    Raises:
        ValueError: no row, rows that do not fit together, or scores that do not fit the phrases or
            are not finite.
    """
    if not rows:
        raise ValueError("no narrative to show")
    titles = _titles(rows[0])
    if any(_titles(row) != titles for row in rows):
        raise ValueError(f"not all rows have the columns {titles}")
    heading = f"{SCALE_WORDS[scale].capitalize()}. {_HEADING}"
    heading += _WITH_TRUTH if rows[0].truth is not None else ""
    laid = [_laid_out(row, panel) for row in rows]
    return sheet(titles, laid, panel, heading=heading, caption_above=True)


def attended(scores: NDArray[np.floating], size: tuple[int, int]) -> NDArray[np.bool_]:
    """The pixels that attend to each phrase most, bool ``(K, H, W)``: each pixel to exactly one.

    Args:
        scores: ``(K, h, w)``; the first of equals counts.
        size: ``(H, W)``; the map is enlarged without smoothing.
    """
    labels = scores.argmax(axis=0).astype(np.uint8 if len(scores) < 256 else np.int32)
    height, width = size
    large = Image.fromarray(labels).resize((width, height), Image.Resampling.NEAREST)
    return np.asarray(np.asarray(large)[None] == np.arange(len(scores))[:, None, None])


def _titles(row: LayerRow) -> tuple[str, ...]:
    last = () if row.truth is None else ("ground truth",)
    return ("image", *(title for title, _ in row.layers), *last)


def _laid_out(row: LayerRow, panel: int) -> SheetRow:
    phrases, size = len(row.spans), row.image.shape[:2]
    colours = palette(phrases)
    for title, scores in row.layers:
        if scores.ndim != 3 or len(scores) != phrases or not scores.size:
            raise ValueError(f"{title}: scores {scores.shape} for {phrases} phrases")
        if not np.isfinite(scores).all():
            raise ValueError(f"{title}: scores that are not finite")
    pictures = [paint(row.image, np.zeros((0, *size), dtype=bool), [], panel)]  # as it is
    pictures += [  # every pixel has a colour: outlines would only add to the noise
        paint(row.image, attended(scores, size), colours, panel, outlined=False)
        for _, scores in row.layers
    ]
    if row.truth is not None:
        if row.truth.shape != (phrases, *size):
            raise ValueError(f"truth {row.truth.shape} for {phrases} phrases and an image {size}")
        pictures.append(paint(row.image, row.truth, colours, panel))
    return SheetRow(pictures, coloured_words(row.caption, row.spans, colours))
