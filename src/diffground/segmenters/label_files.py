"""The label files of a segmenter: refined and written by whichever process, kept if a run goes on.

A folder of them::

    <folder>/<id>.png       labels in the VOC colours
             recipe.json    what they depend on, and the ids that were begun under it, each with
                            the commit of the run that did

It is apart from the network, and without torch: a process of the pool starts fast and stays small.

``C`` classes, the background first · ``H, W`` pixels of the image
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray

from diffground.config import Compat
from diffground.errors import InputError
from diffground.io.files import read_json, write_json
from diffground.io.labels import read_labels, write_labels
from diffground.masks.crf import CrfConfig, dense_crf
from diffground.masks.labels import labels_of
from diffground.provenance import RECIPE, commit, say_why
from diffground.store.manifest import config_hash


@dataclass(frozen=True, eq=False)  # arrays cannot be compared as one
class LabelWork:
    """What the network says about one image."""

    image: NDArray[np.uint8]  # RGB (H, W, 3)
    probabilities: NDArray[np.float32]  # (C, H, W), sum 1


def label_path(folder: Path, item: str) -> Path:
    """The file of an image."""
    return folder / f"{item}.png"


def refined(work: LabelWork, crf: CrfConfig | None, compat: Compat) -> NDArray[np.uint8]:
    """Labels uint8 ``(H, W)``, after the dense CRF if there is one; no pixel is unsure.

    ``compat`` says which picture the CRF sees.

    Raises:
        InputError: the CRF's backend is not installed, or cannot do with its settings.
    """
    scores: NDArray[np.floating] = work.probabilities
    if crf is not None:
        scores = dense_crf(work.image, scores, crf, compat)
    return labels_of(scores, range(len(scores)), None)[0]


def write_refined(
    folder: Path, crf: CrfConfig | None, compat: Compat, item: str, work: LabelWork
) -> None:
    """Writes what :func:`refined` gives; whole or not at all."""
    write_labels(label_path(folder, item), refined(work, crf, compat))


def is_written(folder: Path, item: str, classes: int) -> bool:
    """Whether the file of an image is there, can be read and holds labels below ``classes``."""
    try:
        return int(read_labels(label_path(folder, item)).max()) < classes
    except InputError:
        return False


@contextmanager
def claimed(folder: Path, recipe: Mapping[str, Any], ids: Sequence[str]) -> Iterator[None]:
    """Makes sure that every file of ``ids`` that is there was made with ``recipe``.

    Files of ``ids`` that were made with another one, or with nobody knows what, are removed: they
    would be written anew anyway. Others are left, and not trusted later. While it is open, nobody
    else can claim the folder.

    Args:
        recipe: JSON-ready.
    """
    folder.mkdir(parents=True, exist_ok=True)
    with FileLock(folder / ".recipe.lock"):
        path = folder / RECIPE
        before = _read(path)
        same = config_hash({"": before.get("recipe")}) == config_hash({"": dict(recipe)})
        known = before["ids"] if same else {}
        unknown = [item for item in ids if item not in known]
        if not same and path.exists():
            say_why(folder, recipe, [path], "recipe")
        for item in unknown:
            label_path(folder, item).unlink(missing_ok=True)
        for stale in folder.rglob(".*.part"):  # of runs that were killed; none is writing now
            stale.unlink(missing_ok=True)
        missing = [item for item in ids if not label_path(folder, item).exists()]
        if missing:
            begun = known | dict.fromkeys(missing, commit())
            write_json(path, {"recipe": dict(recipe), "ids": dict(sorted(begun.items()))})
        yield


def _read(path: Path) -> dict[str, Any]:
    """A recipe file of ours; empty if there is none that can be read."""
    content = read_json(path) or {}
    return content if isinstance(content.get("ids"), dict) else {}
