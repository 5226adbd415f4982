"""What was found in scenes, to be looked at: overlays of one method, and Figure 5 of many (002)."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from itertools import chain, zip_longest
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffground.data.mug19 import Triplet
from diffground.errors import InputError
from diffground.io.images import read_image
from diffground.metrics.iou import mask_iou
from diffground.papers.personalized.config import PersonalizedConfig
from diffground.papers.personalized.experiment import Answer, answer_mask, judge
from diffground.papers.personalized.scenes import Scenes, View
from diffground.reporting.few import evenly
from diffground.reporting.lettering import Word, coloured_words
from diffground.reporting.overlays import paint, palette
from diffground.reporting.scale import SCALE_WORDS
from diffground.reporting.sheet import SheetRow, resized, sheet

_WIDE, _NARROW = 320, 208  # width of a picture: of overlays, of Figure 5


def overlay_sheet(scenes: Scenes, folder: Path, config: PersonalizedConfig) -> Image.Image:
    """Pictures of scenes, spread evenly: as many as ``config.figures``.

    From left to right: the picture, true objects, segments, the answers of objects that share the
    segments out (af), and those that each object gets alone (bf). Below, the queries in the colours
    of their masks, each with its IoU under af; variant triplets are left out.

    Args:
        folder: the answers.
    """
    rows = []
    for view in evenly(scenes.views, config.figures):
        try:
            rows.append(_scene_row(scenes, view, folder, config))
        except InputError:
            continue  # its problem is in the report of whoever answered or measured
    if not rows:
        return Image.new("RGB", (_WIDE, 32), "white")  # none were asked for, or all were broken
    titles = ("scene", "true objects", "segments", "together (af)", "each alone (bf)")
    heading = f"{SCALE_WORDS[config.scale].capitalize()}: personal objects by '{config.method}'."
    page = sheet(titles, rows, _WIDE, heading=heading, footnote="Numbers: IoU under af.")
    return Image.fromarray(page)


def figure5(
    scenes: Scenes, answers: Mapping[str, Path], config: PersonalizedConfig, number: int
) -> Image.Image:
    """Figure 5: who each method finds, for some triplets, hard ones first.

    From left to right: a picture of the item, the answer of each method under af, the scene with
    the true object. Triplets are of the visual, the semantic and the variant split in turn, then of
    others, and of a picture each.

    Args:
        answers: row's name -> the folder of its answers.
    """
    rows: list[SheetRow] = []
    for view, triplet in _hard_first(scenes):
        if len(rows) == number:
            break
        try:
            rows.append(_triplet_row(scenes, view, triplet, answers, config))
        except InputError:
            continue
    if not rows:
        return Image.new("RGB", (_WIDE, 32), "white")
    heading = f"Figure 5: localisations by methods. {SCALE_WORDS[config.scale].capitalize()}."
    titles = ("item", *answers, "scene, true object")
    footnote = "Green: the object that is meant. Red: another, or more than it. Numbers: IoU."
    return Image.fromarray(sheet(titles, rows, _NARROW, heading=heading, footnote=footnote))


def _scene_row(scenes: Scenes, view: View, folder: Path, config: PersonalizedConfig) -> SheetRow:
    answer = Answer.read(folder, view)
    judged = judge(scenes, view, answer, config).triplets
    image = read_image(view.image)
    asked = [triplet for triplet in view.triplets if triplet.item == triplet.instance]
    colours = palette(len(asked))
    found = [judged[triplet.id] for triplet in asked]
    true = np.array([each["target"] for each in found]).reshape(-1, *image.shape[:2])
    shared, alone = (
        np.array([answer_mask(answer.segments, each[rule]) for each in found]).reshape(true.shape)
        for rule in ("af", "bf")
    )
    segments = palette(len(asked) + len(answer.segments))[len(asked) :]
    pictures = [
        resized(image, _WIDE, smooth=True),
        paint(image, true, colours, _WIDE),
        paint(image, answer.segments, segments, _WIDE),
        paint(image, shared, colours, _WIDE),
        paint(image, alone, colours, _WIDE),
    ]
    texts = [f"{triplet.instance}, {triplet.context}" for triplet in asked]
    caption = "; ".join(texts)
    spans: list[tuple[int, int]] = []
    for text in texts:
        start = spans[-1][1] + 2 if spans else 0
        spans.append((start, start + len(text)))
    notes = [f"{_iou(mask, each['target']):.2f}" for mask, each in zip(shared, found, strict=True)]
    return SheetRow(pictures, coloured_words(caption, spans, colours, notes))


def _triplet_row(
    scenes: Scenes,
    view: View,
    triplet: Triplet,
    answers: Mapping[str, Path],
    config: PersonalizedConfig,
) -> SheetRow:
    image = read_image(view.image)
    item = read_image(scenes.items[triplet.item].pictures[0])
    pictures, scores = [_beside(item, image)], []
    target = triplet.load_target()
    for folder in answers.values():
        answer = Answer.read(folder, view)
        judged = judge(scenes, view, answer, config).triplets[triplet.id]
        mask = answer_mask(answer.segments, judged["af"])
        scores.append(f"{_iou(mask, target):.2f}")
        pictures.append(_marked(image, mask & target, mask & ~target))
    pictures.append(_marked(image, target, np.zeros_like(target)))
    numbers = f"({', '.join(scores)})"
    words = f"{triplet.description} {numbers} {', '.join(triplet.splits)}, {triplet.id}"
    return SheetRow(pictures, [Word(word) for word in words.split()])


def _beside(item: NDArray[np.uint8], scene: NDArray[np.uint8]) -> Image.Image:
    """An item's picture in a panel that is as high as the scene's."""
    height = round(_NARROW * scene.shape[0] / scene.shape[1])
    width = min(_NARROW, max(1, round(height * item.shape[1] / item.shape[0])))
    panel = Image.new("RGB", (_NARROW, height), "white")
    panel.paste(resized(item, width, smooth=True), (0, 0))
    return panel


def _marked(
    image: NDArray[np.uint8], right: NDArray[np.bool_], wrong: NDArray[np.bool_]
) -> Image.Image:
    colours = ((36, 140, 50), (214, 39, 40))
    return paint(image, np.stack([right, wrong]), colours, _NARROW, outlined=False)


def _hard_first(scenes: Scenes) -> Iterator[tuple[View, Triplet]]:
    """Triplets of the splits in turn, each of another picture."""
    by_split = [
        [(view, t) for view in scenes.views for t in view.triplets if split in t.splits]
        for split in ("visual_distractor", "semantic_distractor", "variant", "all")
    ]
    turns = zip_longest(*by_split[:-1])
    seen: set[str] = set()
    for found in chain((each for turn in turns for each in turn), by_split[-1]):
        if found is not None and found[0].id not in seen:
            seen.add(found[0].id)
            yield found


def _iou(mask: NDArray[np.bool_], target: NDArray[np.bool_]) -> float:
    return float(mask_iou(mask[None], target[None])[0])
