"""Grounds one's own images with one's own narratives: a mask for every phrase.

A folder of results, ``<name>/`` only where a table asks for several images::

    report.json               the model, what was grounded, and which rows could not be
    <name>/overlay.png        the image, its masks, and the narrative in the masks' colours
    <name>/00_puppy.png ...   a mask per phrase in the image's own size, 8 bit, 0 or 255
    <name>/masks.json         the phrases with score, area, box, and the mask as COCO's RLE

It takes the place of an earlier one as a whole: masks of two predictions never mix.

``K`` phrases · ``H, W`` the image's size · ``h, w`` the size of the model's masks, pixels
"""

from __future__ import annotations

import json
import logging
import re
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import Field, PositiveInt, model_validator

from diffground.config import Config
from diffground.errors import InputError, ProblemReport
from diffground.io.images import ImageSource, read_image, write_png
from diffground.manifest import make_folder
from diffground.png.data import UNKNOWN, PngBatch, PngDataConfig, to_input
from diffground.png.maps import resize_maps
from diffground.png.model import PngModel
from diffground.png.nouns import STOP_WORDS, read_narrative
from diffground.png.phrases import Span, check_caption, lost_phrases
from diffground.png.requests import Request, read_requests, slug
from diffground.png.splits import PngSplits, read_split
from diffground.png.variant import PngConfig
from diffground.reporting.overlays import Comparison, side_by_side

log = logging.getLogger(__name__)

REPORT = "report.json"
_PANEL = (320, 800)  # least and largest width of the overlay's two panels, pixels


class PredictConfig(Config):
    """What to ground: ``params:png_predict``. Paths count from where the command runs.

    Without ``image`` and ``table``: the first validation sample with its own phrases.
    """

    # A trained model by its name, or by the path of its folder or of a file of weights in it; null:
    # the one that params:png describe.
    model: str | None = Field(default=None, min_length=1)
    image: Path | None = None  # a file; with a table, the folder of its images (null: the table's)
    narrative: str | None = None  # of the image; [brackets] mark phrases, without any they're found
    table: Path | None = None  # .csv or .jsonl with the columns image and narrative
    stop_words: tuple[str, ...] = STOP_WORDS  # found phrases that end in one are left out
    max_phrases: PositiveInt = 30  # of a narrative, as in the paper; the rest is left out and said

    @model_validator(mode="after")
    def _choices_fit(self) -> PredictConfig:
        if self.table is not None and self.narrative is not None:
            raise ValueError("a table has its own narratives, narrative must be null")
        if self.table is None and (self.image is None) != (self.narrative is None):
            raise ValueError("image and narrative need each other (or both are null)")
        return self


class Grounding(NamedTuple):
    """What a model says of an image. ``scores`` is None for a phrase without a pixel."""

    masks: NDArray[np.bool_]  # (K, H, W)
    scores: list[float | None]  # mean probability inside the mask


def ground(
    model: PngModel,
    image: ImageSource,
    narrative: str,
    spans: Sequence[Span],
    data: PngDataConfig,
    item: str,
) -> Grounding:
    """The masks of a narrative's phrases in the image's own size.

    The model sees the image squeezed to its square; its probabilities are resized back (bilinear)
    and cut at the model's threshold.

    Args:
        image: a file, a Pillow picture or an array, see :mod:`diffground.io.images`.
        spans: the character span of each phrase.
        item: seeds the noise, if the model adds any.

    Raises:
        InputError: the image cannot be read.
    """
    pixels = read_image(image)
    batch = PngBatch(
        ids=(item,),
        captions=(narrative,),
        spans=(tuple(spans),),
        images=to_input(pixels, data.image_size)[None],
        targets=torch.zeros(1, len(spans), *data.mask_size),  # only their size is read
        categories=torch.full((1, len(spans)), UNKNOWN),
    )
    small = model.predict(batch.to(model.backbone.device))[0].float().cpu()  # (K, h, w)
    masks = np.zeros((len(spans), *pixels.shape[:2]), dtype=bool)
    scores: list[float | None] = []
    for index in range(len(spans)):  # one at a time: at 12 megapixels each takes 48 MB
        prob = resize_maps(small[None, index : index + 1], pixels.shape[:2])[0, 0].numpy()
        masks[index] = prob > model.config.threshold
        inside = prob[masks[index]]
        scores.append(round(float(inside.mean()), 4) if inside.size else None)
    return Grounding(masks, scores)


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
                grounded.append(_predict_one(model, about, config, png.data, request, partial))
            except InputError as error:
                if config.table is None:
                    raise
                log.warning("%s is skipped: %s", request.name, error)
                report.add(request.name, error)
        _write_json(partial / REPORT, {**about, "grounded": grounded, **report.to_dict()})

    make_folder(folder, content, make)
    return folder


def _requests(config: PredictConfig, coco: Path, splits: PngSplits) -> list[Request]:
    """What is to be grounded."""
    if config.table is not None:
        return read_requests(config.table, config.image or config.table.parent)
    if config.image is not None and config.narrative is not None:
        return [Request("", config.image, config.narrative)]
    samples, _ = read_split(coco, splits.val, splits.layout, limit=1, max_phrases=None)
    if not samples:
        raise InputError(coco, splits.val, "has no narrative to show; give an image of your own")
    return [Request("", samples[0].image_path, samples[0].caption, samples[0].spans)]


def _predict_one(
    model: PngModel,
    about: dict[str, Any],
    config: PredictConfig,
    data: PngDataConfig,
    request: Request,
    root: Path,
) -> dict[str, Any]:
    """Grounds one image, writes its files, and returns its entry of the report."""
    narrative, spans = request.narrative, list(request.spans or ())
    source = "given"
    if not spans:
        source = "brackets" if "[" in narrative else "found"
        narrative, spans = read_narrative(narrative, config.stop_words)
    left_out = [narrative[slice(*span)] for span in spans[config.max_phrases :]]
    spans = spans[: config.max_phrases]
    image = read_image(request.image)
    option = model.config.long_captions
    check_caption(model.backbone, narrative, spans, option)
    lost = lost_phrases(model.backbone, narrative, spans, option)
    result = ground(model, image, narrative, spans, data, request.image.stem)
    texts = [narrative[slice(*span)] for span in spans]
    summary = {
        "image": request.image.as_posix(),
        "size": list(image.shape[:2]),
        "narrative": narrative,
        "phrases_by": source,
    }
    folder = root / request.name
    rows = []
    for index, (text, span, score) in enumerate(zip(texts, spans, result.scores, strict=True)):
        name = f"{index:02d}_{slug(text)}.png"
        write_png(folder / name, result.masks[index].astype(np.uint8) * 255)
        row = {"text": text, "span": list(span), "file": name, "score": score}
        rows.append({**row, **describe_mask(result.masks[index]), "lost": index in lost})
    ending = {"left_out": left_out, "phrases": rows}
    _write_json(folder / "masks.json", {**summary, **about, **ending})
    notes = ["-" if score is None else f"{score:.2f}" for score in result.scores]
    comparison = Comparison(image, narrative, spans, {"masks": result.masks}, notes)
    panel = min(max(image.shape[1], _PANEL[0]), _PANEL[1])
    footnote = f"{about['variant']}, {about['scale']} scale. Numbers: the mean probability inside "
    footnote += "the mask, - for a phrase that was not found in the image."
    write_png(folder / "overlay.png", side_by_side([comparison], panel=panel, footnote=footnote))
    log.info("%s: %s", request.image, ", ".join(map(" ".join, zip(texts, notes, strict=True))))
    for reason, phrases in (
        ("beyond the text encoder's window", [texts[index] for index in lost]),
        (f"more than max_phrases {config.max_phrases}", left_out),
    ):
        if phrases:
            log.warning("%s: %s: no mask for %s", request.image, reason, ", ".join(phrases))
    named = {"name": request.name, **summary, "phrases": texts, "left_out": left_out}
    return {**named, "lost": [texts[index] for index in lost]}


def describe_mask(mask: NDArray[np.bool_]) -> dict[str, Any]:
    """A mask ``(H, W)`` as COCO's results have it: ``area``, ``bbox``, ``segmentation``.

    ``bbox`` is ``[x, y, width, height]`` in pixels, zeros for an empty mask; ``segmentation`` is
    the compressed run length encoding ``{"size": [H, W], "counts": text}``.
    """
    from pycocotools import mask as coco

    encoded = coco.encode(np.asfortranarray(mask, dtype=np.uint8))
    return {
        "area": int(coco.area(encoded)),
        "bbox": [float(value) for value in coco.toBbox(encoded)],
        "segmentation": {
            "size": [int(side) for side in encoded["size"]],
            "counts": encoded["counts"].decode("ascii"),
        },
    }


def _write_json(path: Path, content: dict[str, Any]) -> None:
    """JSON with lists of numbers on one line; the folder around it appears as a whole."""
    text = json.dumps(content, indent=2, ensure_ascii=False)
    # texts have no line ends in JSON, so this cannot meet one
    text = re.sub(r"\[\n([-\d.,\s]+?)\n\s*\]", lambda m: f"[{' '.join(m[1].split())}]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text + "\n", encoding="utf-8")
