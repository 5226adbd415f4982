"""Pictures of masks: one image with a legend, or image, truth and predictions side by side.

Colours go by the phrase's place in its narrative, the same in every picture. Under masks the image
is grey, so that a colour can only be a phrase's; pixels that several phrases share are striped in
the colours of all of them.
"""

from __future__ import annotations

import colorsys
from collections.abc import Mapping, Sequence
from functools import lru_cache
from typing import NamedTuple

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from scipy import ndimage

from diffground.reporting.differences import difference_boxes, draw_dashed
from diffground.reporting.lettering import Colour, Word, coloured_words, flow
from diffground.reporting.sheet import MARGIN, SheetRow, resized, sheet, text_size

# Far apart in hue, all dark enough to be read as text on white.
_BASE: tuple[Colour, ...] = (
    (214, 39, 40),  # red
    (31, 110, 190),  # blue
    (36, 140, 50),  # green
    (225, 105, 0),  # orange
    (140, 70, 190),  # violet
    (0, 145, 155),  # teal
    (205, 50, 140),  # magenta
    (110, 60, 20),  # brown
    (125, 145, 0),  # olive
    (70, 70, 160),  # indigo
)
_COLOURS = 100
_LIGHTEST = 0.3  # relative luminance: contrast 3 with white
_TINT = 0.55  # share of the colour inside a mask
_STRIPE = 7  # width of the stripes of shared pixels, pixels
_SMALLEST = 320  # a picture narrower than this is enlarged, pixels


class Comparison(NamedTuple):
    """One narrative in several versions.

    Attributes:
        image: uint8 RGB ``(H, W, 3)``.
        caption: the narrative.
        spans: character span of each of the N phrases, in order, end exclusive.
        panels: title -> masks bool ``(N, H, W)``, say "ground truth" and "prediction".
        notes: a short text after each phrase, say its IoU; None = none.
    """

    image: NDArray[np.uint8]
    caption: str
    spans: Sequence[tuple[int, int]]
    panels: Mapping[str, NDArray[np.bool_]]
    notes: Sequence[str] | None = None


def palette(size: int) -> list[Colour]:
    """The colours of ``size`` phrases: the same first ones for every size, repeating after 100."""
    colours = _all_colours()
    return [colours[index % len(colours)] for index in range(size)]


@lru_cache(maxsize=1)
def _all_colours() -> tuple[Colour, ...]:
    """The base, then always the candidate that is farthest from all chosen before it."""
    candidates = [
        tuple(round(255 * part) for part in colorsys.hls_to_rgb(hue / 36, light, saturation))
        for light in (0.22, 0.33, 0.44)
        for saturation in (0.45, 0.95)
        for hue in range(36)
    ]
    dark = [colour for colour in candidates if _luminance(colour) < _LIGHTEST]
    table = np.array([*_BASE, *dark])
    distance = np.abs(table[:, None] - table[None]).sum(-1)
    chosen = list(range(len(_BASE)))
    while len(chosen) < _COLOURS:
        chosen.append(int(distance[:, chosen].min(axis=1).argmax()))
    return tuple((int(red), int(green), int(blue)) for red, green, blue in table[chosen])


def _luminance(colour: Sequence[int]) -> float:
    """Relative luminance in [0, 1] (sRGB, with the exponent 2.2 for its curve)."""
    red, green, blue = ((channel / 255) ** 2.2 for channel in colour)
    return 0.2126 * red + 0.7152 * green + 0.0722 * blue


def overlay(
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    labels: Sequence[str],
) -> NDArray[np.uint8]:
    """The image with tinted, outlined masks, above a legend of the labels; uint8 RGB.

    As wide as the image, but at least 320 pixels.

    Args:
        image: uint8 RGB ``(H, W, 3)``.
        masks: bool ``(N, H, W)``.
        labels: N texts; those of an empty mask are marked "(nothing)".
    """
    if len(masks) != len(labels):
        raise ValueError(f"{len(masks)} masks, {len(labels)} labels")
    colours = palette(len(masks))
    width = max(image.shape[1], _SMALLEST)
    picture = paint(image, masks, colours, width)
    words = [
        Word(label if mask.any() else f"{label} (nothing)", colour, swatch=True)
        for label, mask, colour in zip(labels, masks, colours, strict=True)
    ]
    if not words:
        return np.asarray(picture)
    legend = flow(words, width - 2 * MARGIN, text_size(width), gap=1.2)
    page = Image.new("RGB", (width, picture.height + legend.height + 2 * MARGIN), "white")
    page.paste(picture, (0, 0))
    page.paste(legend, (MARGIN, picture.height + MARGIN))
    return np.asarray(page)


def side_by_side(
    comparisons: Sequence[Comparison],
    *,
    panel: int = 320,
    heading: str = "",
    footnote: str = "",
    differences: bool = False,
) -> NDArray[np.uint8]:
    """One row per narrative: image, then each panel's masks; under it the caption; uint8 RGB.

    The phrases of the caption are coloured like their masks.

    Args:
        comparisons: all with the same panel titles, which head the columns (ValueError if not).
        panel: width of a panel, pixels.
        heading: a first line, say whose pictures these are.
        footnote: a last line, say what the notes are: "Numbers: IoU, protocol original."
        differences: white dashed boxes in both of two panels, say "ground truth" and "prediction"
            (Figure 6 of Li et al.), mark the largest areas where they differ, see
            :func:`difference_boxes`; the footnote says so. ValueError if there are not two.
    """
    if not comparisons:
        raise ValueError("nothing to compare")
    titles = tuple(comparisons[0].panels)
    if any(tuple(comparison.panels) != titles for comparison in comparisons):
        raise ValueError(f"not all comparisons have the panels {titles}")
    if differences:
        if len(titles) != 2:
            raise ValueError(f"differences are between two panels, there are {titles}")
        boxes = f"White dashed boxes: the largest areas where {' and '.join(titles)} differ."
        footnote = f"{boxes} {footnote}".strip()
    rows = [_row(comparison, panel, differences) for comparison in comparisons]
    return sheet(("image", *titles), rows, panel, heading=heading, footnote=footnote)


def paint(
    image: NDArray[np.uint8],
    masks: NDArray[np.bool_],
    colours: Sequence[Colour],
    width: int,
    *,
    outlined: bool = True,
) -> Image.Image:
    """The image at ``width`` pixels with each mask tinted and outlined in its colour."""
    assert image.dtype == np.uint8 and image.ndim == 3, (image.dtype, image.shape)
    assert masks.dtype == np.bool_ and masks.shape[1:] == image.shape[:2], masks.shape
    scaled = resized(image, width, smooth=True)
    if not len(masks):
        return scaled
    grey = np.asarray(scaled.convert("L"), dtype=np.float32)[..., None]
    pixels = np.repeat(0.75 * grey + 0.25 * 255, 3, axis=2)
    large = np.stack([np.asarray(resized(mask, width, smooth=False)) for mask in masks])
    shared = np.maximum(large.sum(axis=0), 1)  # phrases per pixel
    rank = np.cumsum(large, axis=0) - 1  # of each phrase among those of its pixel
    rows, columns = np.mgrid[: scaled.height, :width]
    stripe = (rows + columns) // _STRIPE % shared
    for mask, place, colour in zip(large, rank, colours, strict=True):
        mine = mask & (place == stripe)
        pixels[mine] = (1 - _TINT) * pixels[mine] + _TINT * np.asarray(colour, dtype=np.float32)
    # outlines last, the smallest mask's on top
    order = sorted(range(len(large)), key=lambda index: -int(large[index].sum()))
    for index in order if outlined else []:
        mask, reach = large[index], max(2, width // 240)  # the image's border is none of the mask's
        inner = ndimage.binary_erosion(mask, iterations=reach, border_value=1)
        pixels[mask & ~inner] = colours[index]
    return Image.fromarray(pixels.round().astype(np.uint8))


def _row(comparison: Comparison, panel: int, differences: bool) -> SheetRow:
    """One narrative's pictures and caption."""
    phrases = len(comparison.spans)
    for title, masks in comparison.panels.items():
        if len(masks) != phrases:
            raise ValueError(f"{title}: {len(masks)} masks for {phrases} phrases")
    colours = palette(phrases)
    none = np.zeros((0, *comparison.image.shape[:2]), dtype=bool)
    pictures = [
        paint(comparison.image, masks, colours, panel) for masks in comparison.panels.values()
    ]
    if differences:
        boxes = difference_boxes(*comparison.panels.values())
        scale = panel / comparison.image.shape[1]
        pictures = [draw_dashed(picture, boxes, scale) for picture in pictures]
    return SheetRow(
        [paint(comparison.image, none, [], panel), *pictures],
        coloured_words(comparison.caption, comparison.spans, colours, comparison.notes),
    )
