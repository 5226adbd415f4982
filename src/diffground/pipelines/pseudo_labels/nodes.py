"""Thin nodes: the masks of every split, their mIoU, and Figure 4."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from diffground.papers.text2mask.config import Text2MaskConfig, Text2MaskFolders
from diffground.tracking import get_tracker

if TYPE_CHECKING:
    from diffground.papers.text2mask.experiment import Split

log = logging.getLogger(__name__)


def label(
    folders: Text2MaskFolders,
    diffusion: Path,
    text2mask: Text2MaskConfig,
    maps: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """Makes the pseudo masks of the source and of the validation split, or finds them made."""
    from diffground.papers.text2mask.experiment import label as label_split

    assert maps, "the maps are made first"
    return [
        {"split": split.name, **label_split(split)}
        for split in _splits(folders, diffusion, text2mask)
    ]


def measure(
    folders: Text2MaskFolders,
    diffusion: Path,
    text2mask: Text2MaskConfig,
    masks: list[dict[str, Any]],
) -> list[dict[str, Any]]:
    """mIoU of the masks, before the CRF and after."""
    from diffground.papers.text2mask.experiment import mask_figures
    from diffground.papers.text2mask.experiment import measure as measure_split

    assert masks, "the masks are made first"
    found = []
    for split in _splits(folders, diffusion, text2mask):
        result = measure_split(split)
        found.append(result)
        figures = mask_figures(result)
        for name, miou in figures.items():
            log.info("%s, %s: mIoU %.1f", result["masks"], name.rpartition("/")[2], miou)
        get_tracker().log_metrics(figures)
    return found


def draw_masks(
    folders: Text2MaskFolders,
    diffusion: Path,
    text2mask: Text2MaskConfig,
    masks: list[dict[str, Any]],
) -> Image.Image:
    """Figure 4, of the source."""
    from diffground.papers.text2mask.figures import mask_sheet

    assert masks, "the masks are made first"
    split = next(_splits(folders, diffusion, text2mask))
    return Image.fromarray(mask_sheet(split, text2mask.figures))


def _splits(
    folders: Text2MaskFolders, diffusion: Path, text2mask: Text2MaskConfig
) -> Iterator[Split]:
    from diffground.papers.text2mask.experiment import Frozen, Split

    fingerprint = Frozen(diffusion, text2mask).fingerprint
    for source in text2mask.sources():
        yield Split.of(text2mask, folders, source, fingerprint)
