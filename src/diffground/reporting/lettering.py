"""Text on pictures: a font that is always there, wrapped lines, coloured runs.

The font is matplotlib's own DejaVu Sans, so that a figure looks the same on every machine.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import NamedTuple

import matplotlib
from PIL import Image, ImageDraw, ImageFont

Colour = tuple[int, int, int]
INK: Colour = (40, 40, 40)
_LEADING = 1.35  # line height in font sizes


class Word(NamedTuple):
    """A piece of text that is not broken. ``glued``: no blank stands before it."""

    text: str
    colour: Colour = INK
    bold: bool = False
    glued: bool = False
    swatch: bool = False  # a square of the colour before the text, which is then in INK


@lru_cache(maxsize=16)
def font(size: int, bold: bool = False) -> ImageFont.FreeTypeFont:
    """DejaVu Sans at ``size`` pixels."""
    name = "DejaVuSans-Bold.ttf" if bold else "DejaVuSans.ttf"
    return ImageFont.truetype(str(Path(matplotlib.get_data_path()) / "fonts" / "ttf" / name), size)


def coloured_words(
    text: str,
    spans: Sequence[tuple[int, int]],
    colours: Sequence[Colour],
    notes: Sequence[str] | None = None,
) -> list[Word]:
    """The words of a text, those of each span bold and in its colour, followed by its note.

    ``spans`` are character spans, end exclusive, in order and without overlap (ValueError if not).
    """
    words: list[Word] = []
    at = 0
    for index, (start, end) in enumerate(spans):
        if not at <= start < end <= len(text):
            raise ValueError(f"span {(start, end)} overlaps an earlier one or leaves the text")
        words += _split(text[at:start], INK, False, _glued(text, at))
        words += _split(text[start:end], colours[index], True, _glued(text, start))
        if notes is not None:
            words.append(Word(notes[index], colours[index]))
        at = end
    return words + _split(text[at:], INK, False, _glued(text, at))


def flow(words: Sequence[Word], width: int, size: int, gap: float = 0.3) -> Image.Image:
    """The words in lines of at most ``width`` pixels on white; RGB, as high as it must be.

    ``gap`` is the blank between words in font sizes. A word wider than a line is broken, at a
    blank if it has one; nothing is cut off.
    """
    line_height = round(size * _LEADING)
    placed: list[tuple[int, int, Word]] = []  # x, line, word
    x, line = 0, 0
    for group in _groups([piece for word in words for piece in _broken(word, width, size)]):
        widths = [_width(word, size) for word in group]
        blank = round(gap * size) if x else 0
        if x and x + blank + sum(widths) > width:
            x, line, blank = 0, line + 1, 0
        x += blank
        for word, wide in zip(group, widths, strict=True):
            if x and x + wide > width:  # a group that is wider than a line
                x, line = 0, line + 1
            placed.append((x, line, word))
            x += wide
    image = Image.new("RGB", (width, line_height * (line + 1)), "white")
    draw = ImageDraw.Draw(image)
    for x, line, word in placed:
        middle = line * line_height + line_height / 2
        left = float(x)
        if word.swatch:
            half = size * 0.38
            draw.rectangle((left, middle - half, left + 2 * half, middle + half), fill=word.colour)
            left += _swatch(size)
        ink = INK if word.swatch else word.colour
        draw.text((left, middle), word.text, fill=ink, font=font(size, word.bold), anchor="lm")
    return image


def _swatch(size: int) -> int:
    """Width of a swatch and the blank after it, pixels."""
    return round(size * 1.1)


def _width(word: Word, size: int) -> int:
    wide = font(size, word.bold).getlength(word.text) + (_swatch(size) if word.swatch else 0)
    return int(wide + 0.999)


def _broken(word: Word, width: int, size: int) -> list[Word]:
    """The word in pieces of which each fits a line (one letter fits any)."""
    pieces: list[Word] = []
    rest = word
    while _width(rest, size) > width and len(rest.text) > 1:
        fits = len(rest.text) - 1
        while fits > 1 and _width(rest._replace(text=rest.text[:fits]), size) > width:
            fits -= 1
        blank = rest.text.rfind(" ", 0, fits + 1)
        end = blank if blank > 0 else fits
        pieces.append(rest._replace(text=rest.text[:end]))
        left = rest.text[end:].lstrip()
        # what was broken at a letter goes on without a blank; only the first piece has a swatch
        rest = rest._replace(text=left, swatch=False, glued=blank <= 0)
        rest = rest if not word.swatch else rest._replace(colour=INK)
    return [*pieces, rest] if rest.text else pieces


def _groups(words: Sequence[Word]) -> list[list[Word]]:
    groups: list[list[Word]] = []
    for word in words:
        if word.glued and groups:
            groups[-1].append(word)
        else:
            groups.append([word])
    return groups


def _glued(text: str, at: int) -> bool:
    """Whether the character at ``at`` follows another without a blank."""
    return 0 < at < len(text) and not text[at - 1].isspace() and not text[at].isspace()


def _split(text: str, colour: Colour, bold: bool, glued: bool) -> list[Word]:
    parts = text.split()
    return [Word(part, colour, bold, glued and n == 0) for n, part in enumerate(parts)]
