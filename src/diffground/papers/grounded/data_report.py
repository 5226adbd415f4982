"""What became of the attempts: counts of a set, and a grid of accepted and rejected pictures."""

from __future__ import annotations

import io
from collections import Counter
from collections.abc import Mapping, Sequence
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffground.io.images import BROKEN, reading
from diffground.papers.grounded.data_config import ChoiceConfig, GroundingDataConfig
from diffground.papers.grounded.samples import Reason, Record, Samples, SyntheticSet
from diffground.reporting.few import evenly
from diffground.reporting.lettering import Word, flow
from diffground.reporting.overlays import paint, palette
from diffground.reporting.scale import SCALE_WORDS
from diffground.reporting.sheet import SheetRow, sheet

#: Scores at which it is counted how many attempts pass; 0.7 and 0.8 are those of 004's public code.
FILTERS: Final = (0.05, 0.1, 0.3, 0.5, 0.7, 0.8, 0.9)
_COLUMNS, _PANEL, _LETTERS = 6, 176, 12  # of the grid; pixels


def report(
    synthetic: SyntheticSet, choice: ChoiceConfig, quality: Mapping[str, float]
) -> dict[str, Any]:
    """JSON-ready: how many attempts were made, kept, taken, and why the others were not.

    ``passing`` has for each score of :data:`FILTERS` how many attempts have every class of their
    prompt with that score; ``classes`` how often a class was asked for and found;
    ``absent_but_found`` how often the detector saw a class that the prompt does not name, in
    samples that are taken; ``bytes_per_sample`` is the mean of what the files have of a kept one,
    ``bytes`` all that they have, thumbnails and records of rejected attempts among it.
    """
    records = list(synthetic.records)  # each is read once
    taken, refused = synthetic.chosen(choice, quality)
    kept = [record for record in records if record.kept]
    asked = Counter(name for record in records for name in record.names)
    found = Counter(name for record in records for name in record.names if record.best(name))
    doubted = [
        name
        for record in taken.records
        for name in record.absent
        if record.best(name) and record.best(name) >= choice.least_score
    ]
    scores = [quality[record.id] for record in kept]
    return {
        "folder": synthetic.folder.name,
        "attempts": len(records),
        "kept": len(kept),
        "taken": len(taken),
        "refused": dict(Counter(refused.values())),
        "passing": passing(records),
        "classes": {name: [found[name], asked[name]] for name in sorted(asked)},
        "absent_but_found": len(doubted),
        "quality": {"mean": float(np.mean(scores)), "sd": float(np.std(scores))} if kept else None,
        "bytes_per_sample": round(np.mean([*map(synthetic.size, kept)])) if kept else None,
        "bytes": sum(path.stat().st_size for path in synthetic.parts),
    }


def passing(records: Sequence[Record]) -> dict[str, int]:
    """How many attempts have every class of their prompt, by each score of :data:`FILTERS`."""
    found = [record.sure() for record in records]
    return {str(score): sum(sure >= score for sure in found) for score in FILTERS}


def grid(
    sets: Mapping[str, SyntheticSet],
    quality: Mapping[str, Mapping[str, float]],
    config: GroundingDataConfig,
) -> Image.Image:
    """Accepted pictures of every set, above the same with masks, and rejected ones with the reason.

    As many of either as ``config.figures``, spread evenly over the set. Beneath a picture are its
    classes in the colours of their masks, each with the score of its best instance.
    """
    rows: list[SheetRow] = []
    for name, synthetic in sets.items():
        taken, refused = synthetic.chosen(config.choice, quality[name])
        shown = [record for record in synthetic.records if refused.get(record.id) != "broken"]
        rejected = [record for record in shown if record.id in refused]
        accepted = [
            _accepted(synthetic, taken, index)
            for index in evenly(range(len(taken)), config.figures)
        ]
        others = [
            _rejected(synthetic, record, refused[record.id])
            for record in evenly(rejected, config.figures)
        ]
        rows += _rows(accepted, f"{name}: {len(taken)} accepted")
        rows += _rows(others, f"{name}: {len(refused)} rejected")
    if not rows:
        return Image.new("RGB", (_PANEL, 32), "white")  # none were asked for
    heading = (
        f"Synthetic samples, {SCALE_WORDS[config.scale]}: accepted and rejected at a score of "
        f"{config.choice.least_score}."
    )
    footnote = "Numbers: the score of the detector's best instance."
    page = sheet(
        ("",) * _COLUMNS, rows, _PANEL, heading=heading, footnote=footnote, caption_above=True
    )
    return Image.fromarray(page)


def _rows(panels: Sequence[Image.Image], title: str) -> list[SheetRow]:
    rows = []
    for start in range(0, len(panels), _COLUMNS):
        part = list(panels[start : start + _COLUMNS])
        part += [Image.new("RGB", (_PANEL, 1), "white")] * (_COLUMNS - len(part))
        words = [Word(word) for word in title.split()] if start == 0 else []
        rows.append(SheetRow(part, words))
    return rows


def _accepted(synthetic: SyntheticSet, taken: Samples, index: int) -> Image.Image:
    sample, record = taken[index], taken.records[index]
    picture = thumbnail(synthetic, record)
    masks = np.array([fitting(mask, picture.shape) for mask in sample.masks])
    return _panel([picture, picture], masks, _scores(record, sample.names))


def _rejected(synthetic: SyntheticSet, record: Record, reason: Reason) -> Image.Image:
    words = [Word(f"{reason}:", bold=True), *_scores(record, record.names)]
    picture = thumbnail(synthetic, record)
    return _panel([picture], np.zeros((0, *picture.shape[:2]), bool), words)


def _panel(
    pictures: Sequence[NDArray[np.uint8]], masks: NDArray[np.bool_], words: Sequence[Word]
) -> Image.Image:
    """Pictures below each other, the last one with the masks, and the words."""
    none = masks[:0]
    parts = [paint(picture, none, [], _PANEL) for picture in pictures[:-1]]
    parts += [paint(pictures[-1], masks, palette(len(masks)), _PANEL)]
    parts += [flow(words, _PANEL, _LETTERS)]
    panel = Image.new("RGB", (_PANEL, sum(part.height for part in parts)), "white")
    top = 0
    for part in parts:
        panel.paste(part, (0, top))
        top += part.height
    return panel


def _scores(record: Record, names: Sequence[str]) -> list[Word]:
    return [
        Word(f"{name} {record.best(name):.2f}", colour, bold=True)
        for name, colour in zip(names, palette(len(names)), strict=True)
    ]


def thumbnail(synthetic: SyntheticSet, record: Record) -> NDArray[np.uint8]:
    """The small picture (h, w, 3) of an attempt that was not broken; InputError if it is none."""
    file = synthetic.part_of(record)
    with reading(file, f"{record.id}.thumbnail", BROKEN):
        content = io.BytesIO(synthetic.thumbnail(record))
        with Image.open(content, formats=("JPEG",)) as picture:
            return np.asarray(picture.convert("RGB"))


def fitting(mask: NDArray[np.bool_], shape: tuple[int, ...]) -> NDArray[np.bool_]:
    """A mask as large as a picture of that shape."""
    small = Image.fromarray(mask).resize((shape[1], shape[0]), Image.Resampling.NEAREST)
    return np.asarray(small).astype(bool)
