"""Thin nodes: where things lie, and the maps of every split."""

from __future__ import annotations

import logging
from pathlib import Path
from typing import Any

from diffground.papers.text2mask.config import Text2MaskConfig, Text2MaskFolders

log = logging.getLogger(__name__)


def locate_text2mask(
    voc2012: Path, coco2014: Path, images: Path, maps: Path, masks: Path, models: Path
) -> Text2MaskFolders:
    """The folders of every Text2Mask experiment."""
    return Text2MaskFolders(
        voc2012=voc2012, coco2014=coco2014, images=images, maps=maps, masks=masks, models=models
    )


def aggregate(
    folders: Text2MaskFolders, diffusion: Path, text2mask: Text2MaskConfig
) -> list[dict[str, Any]]:
    """Makes the maps of the source and of the validation split, or finds them made."""
    from diffground.papers.text2mask.experiment import Frozen, Split
    from diffground.papers.text2mask.experiment import aggregate as aggregate_split

    frozen = Frozen(diffusion, text2mask)
    found = []
    for source in text2mask.sources():
        split = Split.of(text2mask, folders, source, frozen.fingerprint)
        report = aggregate_split(split, frozen)
        log.info(
            "%s: %d maps made, %d kept, %d images skipped",
            report["folder"],
            report["made"],
            report["kept"],
            report["skipped"]["skipped"] + report["unusable"]["skipped"],
        )
        found.append({"split": split.name, **report})
    return found
