"""The label files of a segmenter, ``<folder>/<id>.png`` in the VOC colours: refined, and written.

It is apart from the network, and without torch: a process of the pool starts fast and stays small.

``C`` classes, the background first · ``H, W`` pixels of the image
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path

import numpy as np
from numpy.typing import NDArray

from diffground.config import Compat
from diffground.io.labels import write_labels
from diffground.masks.crf import CrfConfig, dense_crf


@dataclass(frozen=True, eq=False)  # arrays cannot be compared as one
class LabelWork:
    """What the network says about one image."""

    image: NDArray[np.uint8]  # RGB (H, W, 3)
    probabilities: NDArray[np.float32]  # (C, H, W), sum 1


def label_path(folder: str | Path, item: str) -> Path:
    """The file of an image."""
    return Path(folder) / f"{item}.png"


def refined(work: LabelWork, crf: CrfConfig | None, compat: Compat) -> NDArray[np.uint8]:
    """Labels uint8 ``(H, W)``, after the dense CRF if there is one; no pixel is unsure.

    ``compat`` says which picture the CRF sees.

    Raises:
        InputError: the CRF's backend is not installed, or cannot do with its settings.
    """
    scores: NDArray[np.floating] = work.probabilities
    if crf is not None:
        scores = dense_crf(work.image, scores, crf, compat)
    return scores.argmax(axis=0).astype(np.uint8)


def write_refined(
    folder: Path, crf: CrfConfig | None, compat: Compat, item: str, work: LabelWork
) -> None:
    """Writes what :func:`refined` gives; whole or not at all."""
    write_labels(label_path(folder, item), refined(work, crf, compat))
