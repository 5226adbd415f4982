"""A single folder, looked over by whoever knows its kind: a dataset, or a model."""

from __future__ import annotations

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

from diffground.adapters.doctor.findings import Finding, State, shown
from diffground.errors import InputError, ProblemReport
from diffground.io.files import LIMIT, SUMS, WEIGHTS, check_sums

FETCH = "fetch those files again"
#: Lists of the labelled datasets, by the folder below which they are.
_SPLITS = {"VOCdevkit/VOC2012": ("train", "train_aug", "val"), "COCO2014": ("train", "val")}


def kind_of(folder: Path) -> str:
    """What a folder is by the files in it: "mug19", "voc2012", "coco2014", "diffusion", "model", or
    "coco", as which everything else is looked at."""
    marks = {
        "mug19": "triplets.json",
        "voc2012": "VOCdevkit",
        "coco2014": "COCO2014",
        "diffusion": "model_index.json",
        "model": "config.json",
    }
    return next((kind for kind, mark in marks.items() if (folder / mark).exists()), "coco")


def model(folder: Path, what: str) -> Finding:
    """A folder of diffusers or transformers, or a file of weights: what it is, and its seal."""
    try:
        if folder.is_file():
            return Finding("ok", what, f"{shown(folder)}: one file, {_size([folder])}")
        if kind_of(folder) == "diffusion" or (folder / "unet").is_dir():
            from diffground.backbone.folder import ModelFolder

            checked = ModelFolder.check(folder)
            named = f"{checked.family}{', RANDOM weights, a rehearsal' if checked.random else ''}"
        else:
            named = _architecture(folder)
            check_sums(folder, "fetch the folder again")
    except InputError as error:
        return Finding.of(what, error)
    weights = sorted(folder.rglob(WEIGHTS))
    if not weights:
        remedy = (
            "complete the download; pickled weights (*.bin, *.pth) are never loaded of a folder"
        )
        return Finding("wrong", what, f"{shown(folder)}: no weights ({WEIGHTS})", remedy)
    return Finding(
        "ok", what, f"{shown(folder)}: {named}, {_size(weights)}, {_seal(folder, weights)}"
    )


def coco(folder: Path, split: str, *, deep: bool) -> tuple[str, Finding]:
    """A split of COCO with panoptic narratives: the whole table of its doctor, and the finding."""
    from diffground.data.png_benchmark import PngBenchmark
    from diffground.data.png_doctor import examine, problems_of, render

    found = examine(PngBenchmark(folder, split), deep=deep)
    narratives, images, panoptic = (found[k] for k in ("narratives", "images", "panoptic"))
    lost = images["in the JSON"] - images["of these on disk"] + panoptic["PNGs missing"]
    broken = narratives["broken"] + (found["deep"]["skipped"] if found["deep"] else 0)
    words = (
        f"{narratives['usable']:,} of {narratives['examined']:,} narratives can be used, "
        f"{narratives['without grounded phrase']:,} have nothing to ground, {broken:,} are broken; "
        f"{images['of these on disk']:,} of {images['in the JSON']:,} images, "
        f"{panoptic['of these PNGs on disk']:,} of {panoptic['annotations in the JSON']:,} PNGs"
    )
    first = [f"The first: {row['file']}: {row['reason']}" for row in problems_of(found)[:1]]
    remedy = " ".join([*found["advice"], *first]) if lost or broken else ""
    state: State = "wrong" if lost or broken else "ok"
    return render(found), Finding(state, f"{folder.name}, {split}", words, remedy)


def mug19(folder: Path, *, deep: bool) -> Finding:
    """A copy of Mug19."""
    from diffground.data.mug19 import Mug19
    from diffground.data.mug19_doctor import examine

    found = examine(Mug19.read(folder), deep=deep)
    words = f"{found['items']} items, {found['scenes']} pictures, {found['triplets']} triplets"
    reports = [found["problems"], *([found["deep"]] if found["deep"] else [])]
    return _reported(folder.name, words, [row for each in reports for row in each["problems"]])


def labelled(folder: Path, *, deep: bool) -> Iterator[Finding]:
    """VOC 2012 or COCO 2014: every list and its files, and with ``deep`` what is in them."""
    from diffground.data.image_lists import CocoSource, VocSource
    from diffground.data.labelled_images import read_samples
    from diffground.data.vocabulary import Vocabulary

    kind = kind_of(folder)
    base = "VOCdevkit/VOC2012" if kind == "voc2012" else "COCO2014"
    source: Any = VocSource if kind == "voc2012" else CocoSource
    words = Vocabulary.load("voc" if kind == "voc2012" else "coco")
    for split in _SPLITS[base]:
        report, usable = ProblemReport(), 0
        # Which classes there are is no question here, and the mini world has others.
        for sample in read_samples(
            source(split=split, labels="none"), folder / base, words, report
        ):
            try:
                if deep:
                    sample.load_mask(size=sample.load_image().shape[:2])
                usable += 1
            except InputError as error:
                report.add(sample.id, error)
        found = f"{usable:,} of {report.total:,} images with their masks"
        yield _reported(f"{folder.name}, {split}", found, report.to_dict()["problems"])


def look(folder: Path, *, split: str, deep: bool) -> tuple[str, list[Finding]]:
    """A folder of any kind: what else there is to read about it, and the findings.

    Raises:
        InputError: its lists cannot be read.
    """
    match kind_of(folder):
        case "diffusion" | "model":
            return "", [model(folder, folder.name)]
        case "mug19":
            return "", [mug19(folder, deep=deep)]
        case "voc2012" | "coco2014":
            return "", list(labelled(folder, deep=deep))
        case _:
            text, finding = coco(folder, split, deep=deep)
            return text, [finding]


def _reported(what: str, words: str, problems: list[dict[str, Any]]) -> Finding:
    if not problems:
        return Finding("ok", what, words)
    first = problems[0]
    remedy = f"{FETCH}; the first: {first['file']}: {first['field']}: {first['reason']}"
    return Finding("wrong", what, f"{words}; {len(problems):,} broken", remedy)


def _architecture(folder: Path) -> str:
    """What a folder of transformers says that it is; InputError if it says nothing."""
    if not folder.is_dir():
        raise InputError(folder, "folder", "there is no such folder")
    try:
        content = json.loads((folder / "config.json").read_text("utf-8"))
    except (OSError, ValueError) as error:
        reason = f"it cannot be read ({error}); complete the download"
        raise InputError(folder, "config.json", reason) from error
    return ", ".join(content.get("architectures") or [content.get("model_type", "a model")])


def _seal(folder: Path, weights: list[Path]) -> str:
    if not (folder / SUMS).is_file():
        return "without checksums"
    if sum(path.stat().st_size for path in weights) > LIMIT:
        return f"sealed, not read now: `sha256sum -c {SUMS}` in it"
    return "as sealed"


def _size(files: list[Path]) -> str:
    whole = sum(path.stat().st_size for path in files)
    return f"{whole / 1e9:.1f} GB" if whole >= 1e8 else f"{whole / 1e6:.1f} MB"
