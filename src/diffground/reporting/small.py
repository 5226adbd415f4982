"""Small copies of pictures, for pages that show many."""

from __future__ import annotations

from PIL import Image

COLOURS = 256  # of the palette


def small(picture: Image.Image, width: int) -> Image.Image:
    """The picture at most ``width`` pixels wide, in 256 colours of its own, rare ones too."""
    height = round(picture.height * width / picture.width)
    if picture.width > width:
        picture = picture.resize((width, height), Image.Resampling.LANCZOS)
    return picture.convert("RGB").quantize(
        COLOURS, method=Image.Quantize.MAXCOVERAGE, dither=Image.Dither.NONE
    )
