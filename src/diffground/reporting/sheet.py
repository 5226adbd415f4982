"""The page that figures share: rows of equal panels, captions in colour, and a colour bar."""

from __future__ import annotations

from collections.abc import Sequence
from typing import NamedTuple

import matplotlib
import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffground.reporting.lettering import INK, Colour, Word, flow

MARGIN = 12  # pixels around panels and text
_GREY: Colour = (110, 110, 110)


class SheetRow(NamedTuple):
    """One narrative or image: pictures as wide as the sheet's panels, and the caption."""

    pictures: Sequence[Image.Image]
    words: Sequence[Word]


def sheet(
    titles: Sequence[str],
    rows: Sequence[SheetRow],
    panel: int,
    *,
    heading: str = "",
    footnote: str = "",
    caption_above: bool = False,
) -> NDArray[np.uint8]:
    """Rows below each other on white, uint8 RGB ``(H, W, 3)``.

    Args:
        titles: one per column (of panels).
        panel: width of a panel, pixels.
        heading: what the picture shows, a first line.
        footnote: a last line in grey.
        caption_above: captions stand above their pictures and the titles between the two, in every
            row; else below them, and the titles once, on top.
    """
    width = len(titles) * panel + (len(titles) + 1) * MARGIN
    size = max(text_size(panel), min(17, round(width / 95)))  # a wide page is seen from afar
    head = _columns([flow([Word(title, INK, bold=True)], panel, size) for title in titles], width)
    parts: list[Image.Image] = []
    if heading:
        parts += [_blank(width), _text([Word(w, INK) for w in heading.split()], width, size)]
    if not caption_above:
        parts += [_blank(width, MARGIN // 2), head]
    for row in rows:
        assert len(row.pictures) == len(titles), (len(row.pictures), titles)
        caption, pictures = _text(row.words, width, size), _columns(row.pictures, width)
        small = _blank(width, MARGIN // 2)
        if caption_above:
            parts += [_blank(width), caption, small, head, small, pictures]
        else:
            parts += [small, pictures, small, caption, _blank(width)]
    if caption_above:
        parts.append(_blank(width))
    if footnote:
        words = [Word(word, _GREY) for word in footnote.split()]
        parts += [_text(words, width, round(0.9 * size)), _blank(width)]
    page = Image.new("RGB", (width, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        page.paste(part, (0, top))
        top += part.height
    return np.asarray(page)


def resized(
    picture: NDArray[np.uint8] | NDArray[np.bool_], width: int, *, smooth: bool
) -> Image.Image:
    """A picture uint8 RGB ``(H, W, 3)``, or a mask, at ``width`` pixels; masks are not smoothed."""
    height = max(1, round(picture.shape[0] * width / picture.shape[1]))
    kind = Image.Resampling.BICUBIC if smooth else Image.Resampling.NEAREST
    return Image.fromarray(picture).resize((width, height), kind)


def heat(values: NDArray[np.floating]) -> NDArray[np.uint8]:
    """Values ``(H, W)`` in [0, 1] as colours, uint8 RGB; :func:`colour_bar` says which is which."""
    colours = matplotlib.colormaps["viridis"](np.clip(values, 0, 1), bytes=True)
    return np.ascontiguousarray(colours[..., :3])


def colour_bar(width: int, text: str) -> NDArray[np.uint8]:
    """A line for the foot of a sheet of that width: the colours of :func:`heat` from 0 to 1."""
    size = text_size(width)
    ramp = np.repeat(np.linspace(0, 1, 12 * size)[None], size, axis=0)
    bar, zero = Image.fromarray(heat(ramp)), flow([Word("0")], 2 * size, size)
    words = flow([Word(word) for word in f"1 {text}".split()], width - bar.width - 5 * size, size)
    line = Image.new("RGB", (width, max(words.height, size) + MARGIN), "white")
    line.paste(zero, (MARGIN, 0))
    line.paste(bar, (MARGIN + size, (zero.height - size) // 2))
    line.paste(words, (MARGIN + size + bar.width + size // 2, 0))
    return np.asarray(line)


def text_size(width: int) -> int:
    """Font size in pixels for a picture of that width."""
    return min(17, max(13, round(width / 22)))


def _columns(pictures: Sequence[Image.Image], width: int) -> Image.Image:
    """Pictures of one width side by side, aligned at the top."""
    strip = Image.new("RGB", (width, max(picture.height for picture in pictures)), "white")
    for column, picture in enumerate(pictures):
        strip.paste(picture, (MARGIN + column * (picture.width + MARGIN), 0))
    return strip


def _text(words: Sequence[Word], width: int, size: int) -> Image.Image:
    """Words over the width of the page, within its margins."""
    text = flow(words, width - 2 * MARGIN, size)
    line = Image.new("RGB", (width, text.height), "white")
    line.paste(text, (MARGIN, 0))
    return line


def _blank(width: int, height: int = MARGIN) -> Image.Image:
    return Image.new("RGB", (width, height), "white")
