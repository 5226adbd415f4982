"""Figures of maps: a row per word, a column per layer, head or time step."""

from __future__ import annotations

from collections.abc import Mapping

import numpy as np
from matplotlib.figure import Figure
from numpy.typing import NDArray
from PIL import Image

from diffground.reporting.curves import figure_pixels

PANEL = 1.35  # inches, of a panel's side
WIDEST = 9  # panels beside each other, the image not counted


def map_grid(
    rows: Mapping[str, Mapping[str, NDArray[np.floating]]], *, image: NDArray[np.uint8]
) -> Image.Image:
    """Maps of any sizes, each from its lowest value to its highest, as a picture.

    Args:
        rows: word -> column -> map (h, w); all words with the same columns, which go on in a next
            line where there are more than :data:`WIDEST`.
        image: what they are of, uint8 RGB (H, W, 3), before each row.
    """
    columns = list(next(iter(rows.values())))
    parts = [columns[start : start + WIDEST] for start in range(0, len(columns), WIDEST)]
    lines = [(word, part) for part in parts for word in rows]
    across = 1 + max(map(len, parts))
    ratio = image.shape[0] / image.shape[1]
    size = (PANEL * across + 0.3, (PANEL * ratio + 0.22) * len(lines))
    figure = Figure(figsize=size, layout="constrained")
    axes = figure.subplots(len(lines), across, squeeze=False)
    for axis in axes.flat:
        axis.set_axis_off()
    for line, (word, part) in zip(axes, lines, strict=True):
        line[0].imshow(image)
        line[0].set_title(word, fontsize=8, loc="left")
        for axis, column in zip(line[1:], part, strict=False):
            extent = (0, image.shape[1], image.shape[0], 0)  # the image's, whatever the map's size
            axis.imshow(rows[word][column], cmap="magma", extent=extent)
            axis.set_title(column, fontsize=8)
    return Image.fromarray(figure_pixels(figure, dpi=100))
