"""Files of label masks and of confidences.

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
from diffground.io.images import broken_pixels, open_image, write_png
from diffground.io.palette import colour_map
from diffground.metrics.iou import UNSURE


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
    labels = _read_single(path, {"P", "L"}, "an indexed or a grey picture of 8 bits")
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


def write_confidence(path: str | Path, confidence: NDArray[np.floating]) -> Path:
    """Writes confidences ``(H, W)`` in [0, 1] as a grey PNG of ``round(255 * confidence)``."""
    return write_png(path, np.round(255 * np.clip(confidence, 0, 1)).astype(np.uint8))


def read_confidence(path: str | Path) -> NDArray[np.float32]:
    """Confidences float32 ``(H, W)`` in [0, 1], to 1/510; InputError as :func:`read_labels`."""
    values = _read_single(path, {"L"}, "a grey picture of 8 bits")
    return values.astype(np.float32) / np.float32(255)


def _read_single(path: str | Path, modes: set[str], wanted: str) -> NDArray[np.uint8]:
    """The values of a picture with one channel of 8 bits."""
    with open_image(path) as image:
        if image.mode not in modes:
            reason = f"the pixels are {image.mode}, wanted is {wanted}, its values the labels"
            raise InputError(path, "mode", reason)
        try:
            return np.array(image, dtype=np.uint8)
        except (OSError, SyntaxError, ValueError, EOFError) as error:
            raise broken_pixels(path, error) from error


def _by(size: tuple[int, ...]) -> str:
    """``(H, W)`` as people write it."""
    return f"{size[1]}x{size[0]}"
