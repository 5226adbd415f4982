"""Grounds one's own images with one's own narratives: a mask for every phrase.

A folder of results, ``<name>/`` only where a table asks for several images::

    report.json   the model, what was grounded, and which rows could not be
    <name>/...    overlay, masks, and masks.json, see diffground.masks.phrase_masks

It takes the place of an earlier one as a whole: masks of two predictions never mix.
"""

from __future__ import annotations

import logging
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from diffground.data.config import PngSplits
from diffground.data.narrative_table import Request, read_requests
from diffground.data.png_reading import Narratives
from diffground.errors import InputError, ProblemReport
from diffground.masks.phrase_masks import write_readable
from diffground.papers.png.config import PngConfig, PredictConfig
from diffground.papers.png.grounder import NarrativeGrounder
from diffground.papers.png.model import PngModel
from diffground.phrases.noun_phrases import read_narrative
from diffground.store.manifest import make_folder

log = logging.getLogger(__name__)

REPORT = "report.json"


def predict(
    model: PngModel,
    variant: str,
    png: PngConfig,
    config: PredictConfig,
    coco: Path,
    folder: Path,
) -> Path:
    """Grounds what ``config`` names and makes ``folder``, which is returned.

    A table's rows that cannot be used are in the report and do not stop the others.

    Args:
        model, variant, png: what was trained, the name it has, and the experiment it is of.
        coco: where the sample comes from if ``config`` names no image.

    Raises:
        InputError: the single image or narrative, or the table as a whole, cannot be used.
    """
    backbone = model.backbone
    about = {
        "variant": variant,
        "backbone": {"name": backbone.folder.name, "fingerprint": backbone.fingerprint()},
        "scale": png.scale,
        "head": model.config.final_head,
        "threshold": model.config.threshold,
    }
    requests = _requests(config, coco, png.splits)
    grounder = NarrativeGrounder(model, png.data)
    content = {
        **about,
        "predict": config.model_dump(mode="json"),
        "made": datetime.now(UTC).isoformat(),  # so that a prediction is always made anew
    }

    def make(partial: Path) -> None:
        report = ProblemReport(total=len(requests))
        grounded = []
        for request in requests:
            try:
                if request.error is not None:
                    raise request.error
                grounded.append(_predict_one(grounder, about, config, request, partial))
            except InputError as error:
                if config.table is None:
                    raise
                log.warning("%s is skipped: %s", request.name, error)
                report.add(request.name, error)
        write_readable(partial / REPORT, {**about, "grounded": grounded, **report.to_dict()})

    make_folder(folder, content, make)
    return folder


def _requests(config: PredictConfig, coco: Path, splits: PngSplits) -> list[Request]:
    """What is to be grounded."""
    if config.table is not None:
        return read_requests(config.table, config.image or config.table.parent)
    if config.image is not None and config.narrative is not None:
        return [Request("", config.image, config.narrative)]
    read = Narratives.read(coco, splits.val, splits.layout, limit=1, max_phrases=None)
    samples = read.samples
    if not samples:
        raise InputError(coco, splits.val, "has no narrative to show; give an image of your own")
    return [Request("", samples[0].image_path, samples[0].caption, samples[0].spans)]


def _predict_one(
    grounder: NarrativeGrounder,
    about: dict[str, Any],
    config: PredictConfig,
    request: Request,
    root: Path,
) -> dict[str, Any]:
    """Grounds one image, writes its files, and returns its entry of the report."""
    narrative, spans = request.narrative, list(request.spans or ())
    source = "given"
    if not spans:
        source = "brackets" if "[" in narrative else "found"
        narrative, spans = read_narrative(narrative)
    left_out = [narrative[slice(*span)] for span in spans[config.max_phrases :]]
    spans = spans[: config.max_phrases]
    result = grounder(request.image, narrative, spans=spans, item=request.image.stem)
    named = {"image": request.image.as_posix(), "narrative": narrative, "phrases_by": source}
    said = f"{about['variant']}, {about['scale']} scale. "
    result.write(root / request.name, {**named, **about, "left_out": left_out}, said)
    found = map(" ".join, zip(result.phrases, result.notes(), strict=True))
    log.info("%s: %s", request.image, ", ".join(found))
    if left_out:
        limit, names = config.max_phrases, ", ".join(left_out)
        log.warning("%s: more than max_phrases %d: no mask for %s", request.image, limit, names)
    return {
        "name": request.name,
        **named,
        "size": list(result.size),
        "phrases": list(result.phrases),
        "left_out": left_out,
        "lost": [result.phrases[place] for place in result.lost],
    }
