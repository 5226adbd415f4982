"""Files of label masks, and the colours in which they are shown.

Files are indexed PNGs of 8 bits, value = label id, shown in the colours of the VOC development kit;
255 is "unsure". Grey PNGs with the same values are read too: the public masks come in both kinds.
"""

from __future__ import annotations

from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffground.errors import InputError
from diffground.io.files import write_whole
from diffground.io.images import BROKEN, open_image, reading
from diffground.metrics.iou import UNSURE


def colour_map() -> NDArray[np.uint8]:
    """The colour of every label, RGB (256, 3): bit ``3 k + c`` of the label goes to bit ``7 - k``
    of channel ``c``."""
    labels = np.arange(256)
    colours = np.zeros((256, 3), np.int64)
    for k in range(8):
        for c in range(3):
            colours[:, c] |= ((labels >> (3 * k + c)) & 1) << (7 - k)
    return colours.astype(np.uint8)


def write_labels(path: str | Path, labels: NDArray[np.uint8]) -> Path:
    """Writes labels uint8 ``(H, W)`` as an indexed PNG in the VOC colours; whole or not at all."""
    assert labels.dtype == np.uint8 and labels.ndim == 2, (labels.dtype, labels.shape)
    picture = Image.fromarray(np.ascontiguousarray(labels)).convert("P")  # keeps the values
    picture.putpalette(colour_map().tobytes())
    return write_whole(path, lambda part: picture.save(part, format="PNG"))


def read_labels(
    path: str | Path, *, size: tuple[int, int] | None = None, classes: int | None = None
) -> NDArray[np.uint8]:
    """The labels of an indexed or grey PNG of 8 bits, uint8 ``(H, W)``, 255 = unsure.

    Args:
        path: the file.
        size: ``(H, W)`` that the mask must have, its image's.
        classes: labels must be below, or 255; None takes any.

    Raises:
        InputError: no such file, not readable, colours instead of labels, another size, or a label
            that is not among the classes.
    """
    with open_image(path) as image:
        if image.mode not in ("P", "L"):
            wanted = "wanted is an indexed or a grey picture of 8 bits, its values the labels"
            raise InputError(path, "mode", f"the pixels are {image.mode}, {wanted}")
        with reading(path, "pixels", BROKEN):
            labels = np.array(image, dtype=np.uint8)
    if size is not None and labels.shape != tuple(size):
        raise InputError(path, "size", f"the mask is {_by(labels.shape)}, its image {_by(size)}")
    if classes is not None:
        unknown = [int(label) for label in np.unique(labels) if classes <= label < UNSURE]
        if unknown:
            raise InputError(
                path,
                "labels",
                f"unknown labels {unknown[:5]}{' ...' if len(unknown) > 5 else ''}: there are "
                f"{classes} (0 to {classes - 1}), and {UNSURE} for unsure pixels",
            )
    return labels


def _by(size: tuple[int, ...]) -> str:
    """``(H, W)`` as people write it."""
    return f"{size[1]}x{size[0]}"
