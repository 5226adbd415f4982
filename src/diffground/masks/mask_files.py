"""Mask files of a data set: made image by image, by several processes and machines, and resumed.

A store (:mod:`diffground.store.items`) of them::

    <folder>/mask/<id>.png         pseudo masks, 255 where the CRF is unsure
             label/<id>.png        the same without the 255s, as the public code measures them
             initial/<id>.png      labels before the CRF

The CRF may run in a pool of processes. Metrics are read from the files
(:mod:`diffground.masks.measure`).

``K`` classes, so K + 1 labels with the background first
"""

from __future__ import annotations

from collections.abc import Callable, Mapping
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import Any, Final, Literal, get_args

import numpy as np
from numpy.typing import NDArray
from pydantic import Field

from diffground.config import Compat, Config
from diffground.io.labels import write_labels
from diffground.masks import crf
from diffground.masks.crf import CrfConfig, check_backend, dense_crf
from diffground.masks.uncertainty import uncertain
from diffground.metrics.iou import UNSURE
from diffground.provenance import code_of
from diffground.store.config import WorkConfig
from diffground.store.items import Item, Summary
from diffground.training.sharing import fill_together

Layer = Literal["label", "initial", "mask"]
LAYERS: tuple[Layer, ...] = get_args(Layer)  # the files of an item, in the order of writing

# Raised when the same posterior gives other labels, here or in `uncertainty`.
CODE_VERSION: Final = 1


class MaskConfig(Config):
    """How scores become mask files."""

    crf: CrfConfig = CrfConfig()
    # Pixels less certain are 255 in `mask` (compat paper: those with two attention scores less than
    # 1 - threshold apart). The public code's.
    threshold: float = Field(0.95, ge=0, le=1)


@dataclass(frozen=True, eq=False)  # arrays cannot be compared as one
class MaskWork:
    """One image as the CRF wants it."""

    image: NDArray[np.uint8]  # RGB (H, W, 3)
    scores: NDArray[np.floating]  # (K + 1, H, W), background first, see `dense_crf`
    label_ids: tuple[int, ...]  # K + 1 label ids, below 255
    initial: NDArray[np.uint8]  # labels before the CRF (H, W)

    def __post_init__(self) -> None:
        size = self.image.shape[:2]
        assert self.scores.shape == (len(self.label_ids), *size), (self.scores.shape, size)
        assert self.initial.shape == size, (self.initial.shape, size)
        assert all(0 <= label < UNSURE for label in self.label_ids), self.label_ids


def mask_path(folder: str | Path, item: str, layer: Layer = "mask") -> Path:
    """The file of an item."""
    return Path(folder) / layer / f"{item}.png"


def write_masks(
    sources: Mapping[str, Mapping[str, Path]],
    make: Callable[[str], MaskWork],
    folder: Path,
    config: MaskConfig,
    work: WorkConfig,
    *,
    compat: Compat,
    recipe: Mapping[str, Any],
) -> Summary:
    """Makes the mask files that are missing, damaged, or made from something else.

    Args:
        sources: of *all* items, by name, the files that its work is made from. A name is that of
            files; "/" makes folders.
        make: the scores of an item, called only for those that are to be made.
        folder: see :func:`~diffground.store.items.fill`, as for ``make`` and ``work``; processes
            that a launcher started share the items out.
        config: CRF and threshold.
        compat: the CRF's picture, and which pixels of ``mask`` are 255: ``official`` where its
            posterior is below the threshold, ``paper`` where two attention scores are less than
            1 - threshold apart (see :mod:`diffground.masks.uncertainty`).
        recipe: JSON-ready, what else the masks depend on (model, prompts, data).

    Raises:
        InputError: no items, a name that is no file's, pydensecrf is wanted and not
            installed, or the CRF cannot do with its settings.
    """
    check_backend(config.crf)
    made_by = {
        "code": code_of_masks(),
        # Not the device: machines that share a folder may differ.
        "masks": config.model_dump(mode="json", exclude={"crf": {"device"}}),
        "compat": compat,
        "recipe": dict(recipe),
    }
    items = [
        Item(
            item,
            tuple(mask_path("", item, layer).as_posix() for layer in LAYERS),
            sources=made_from,
        )
        for item, made_from in sources.items()
    ]
    finish = partial(_refine, folder, config, compat)
    return fill_together(folder, made_by, items, make, finish, what="masks", work=work)


def _refine(folder: Path, config: MaskConfig, compat: Compat, item: str, work: MaskWork) -> None:
    """Runs the CRF and writes an item's files, ``mask`` last; in whichever process."""
    posterior = dense_crf(work.image, work.scores, config.crf, compat)
    labels = np.array(work.label_ids, np.uint8)[posterior.argmax(axis=0)]
    judged = posterior if compat == "official" else work.scores
    unsure = uncertain(judged, compat, 1 - config.threshold)
    mask = np.where(unsure, np.uint8(UNSURE), labels)
    for layer, content in zip(LAYERS, (labels, work.initial, mask), strict=True):
        write_labels(mask_path(folder, item, layer), content)


def code_of_masks() -> dict[str, int]:
    """The code versions that masks depend on besides their scores."""
    return code_of(crf) | {"masks": CODE_VERSION}
