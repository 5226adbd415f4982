"""Grounds images: one into a folder of its own, many into a store that is resumed.

One image, or one prompt: the folder is its result, see :mod:`diffground.masks.phrase_masks`, and
takes the place of an earlier one as a whole. Of a folder or a table::

    <folder>/masks/<name>/...    a result per image: a store (diffground.store.items)

In both: the lists of :mod:`.results`. What cannot be used is in the report; of many images it does
not stop the others.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Final

from diffground.errors import InputError, Problem, ProblemReport
from diffground.ground.config import GroundConfig
from diffground.ground.methods import Method
from diffground.ground.requests import (
    Refused,
    Request,
    read_table,
    read_words,
    requests_of_folder,
)
from diffground.ground.results import IMAGE, Result, write_lists
from diffground.io.images import write_png
from diffground.masks.phrase_masks import MASKS, OVERLAY, PANOPTIC, PhraseMasks, mask_files
from diffground.store.items import Item, fill
from diffground.store.manifest import make_folder

STORE: Final = "masks"

log = logging.getLogger(__name__)


def ground(
    config: GroundConfig, method: Method, folder: Path, sample: Request | None = None
) -> dict[str, Any]:
    """Grounds what ``config`` names, and makes or fills ``folder``; returns the report.

    Args:
        sample: what is grounded if ``config`` names neither source nor prompt.

    Raises:
        InputError: the image or its words cannot be used; of many, the table or the folder as a
            whole cannot, or none of them.
    """
    source = config.source
    words = None
    if config.words is not None:
        words = read_words(config.words, narratives=method.reads_narratives)
    if config.table is not None:
        images = config.images or config.table.parent
        return _many(read_table(config.table, images, words), images, config, method, folder)
    if source is None and config.prompt is None:
        assert sample is not None, "neither source, nor prompt, nor sample"
        return _one(sample, config, method, folder)
    assert words is not None, "the settings' validator looks for them"
    if source is None:
        return _one(Request("", words, prompt=config.prompt), config, method, folder)
    if source.is_dir():
        return _many(requests_of_folder(source, words), source, config, method, folder)
    return _one(Request("", words, source), config, method, folder)


#: What is said of a folder that was made.
HOLDS: Final = "panoptic.json, coco.json, report.json"
ONE: Final = f"overlay.png, masks.json, a PNG per phrase, {HOLDS}"
MANY: Final = f"a folder per image in {STORE}, {HOLDS}"


def _one(request: Request, config: GroundConfig, method: Method, folder: Path) -> dict[str, Any]:
    about = _about(config, method)
    words = request.words.limited(config.max_phrases)
    asked = Request("", words, request.image, request.prompt)
    method.phrases(words)  # what is wrong with them is said before a model is loaded
    result = method.ask(asked)
    report: dict[str, Any] = {}

    def make(partial: Path) -> None:
        _write(partial, asked, result, about)
        image = request.image or partial / IMAGE
        made = [Result(image.stem, partial, image)]
        report.update(
            write_lists(partial, made, about, ProblemReport(1), root=partial, images=image.parent)
        )

    make_folder(folder, {**about, "made": datetime.now(UTC).isoformat()}, make)
    return report


def _many(
    found: Sequence[Request | Refused],
    images: Path,
    config: GroundConfig,
    method: Method,
    folder: Path,
) -> dict[str, Any]:
    about = _about(config, method)
    report = ProblemReport(len(found))
    requests: dict[str, Request] = {}
    items = []
    for each in found:
        try:
            if isinstance(each, Refused):
                raise each.error
            words = each.words.limited(config.max_phrases)
            request = Request(each.name, words, each.image, each.prompt)
            items.append(_item(request, method.phrases(words)))
            requests[each.name] = request
        except InputError as error:
            log.warning("%s is skipped: %s", each.name, error)
            report.add(each.name, error)
    if not items:
        raise _none_of(report)

    def finish(name: str, result: PhraseMasks) -> None:
        _write(folder / STORE / name, requests[name], result, about)

    summary = fill(
        folder / STORE, method.recipe, items, lambda name: method.ask(requests[name]), finish,
        what="images", work=config.work, ready=lambda: method.ask,
    )  # fmt: skip
    report.problems += [Problem(**problem) for problem in summary["skipped"]["problems"]]
    broken = {problem.item for problem in report.problems}
    made = []
    for name, request in requests.items():
        place = folder / STORE / name
        # Other shards may still be at work on theirs.
        if name not in broken and (place / MASKS).exists():
            made.append(Result(name, place, request.image or place / IMAGE))
    if not made and summary["complete"]:
        raise _none_of(report)
    log.info("%d images grounded, %d found done, %d skipped; in %s",
             summary["made"], summary["kept"], len(broken), folder)  # fmt: skip
    if all(request.image is None for request in requests.values()):
        images = folder / STORE
    return write_lists(folder, made, about, report, root=folder / STORE, images=images)


def _none_of(report: ProblemReport) -> InputError:
    first = report.problems[0]
    reason = f"none of {report.total} can be used; the first, {first.item}: {first.reason}"
    return InputError(first.file, first.field, reason)


def _item(request: Request, phrases: Sequence[str]) -> Item:
    """What is kept of a request, and what it depends on."""
    files = [OVERLAY, PANOPTIC, MASKS, *mask_files(phrases)]
    files += [IMAGE] if request.image is None else []
    words = request.words
    asked = [phrases, words.narrative, words.spans, words.by, words.left_out, request.prompt]
    sources = {} if request.image is None else {"image": request.image}
    return Item(request.name, tuple(f"{request.name}/{file}" for file in files), asked, sources)


def _write(folder: Path, request: Request, result: PhraseMasks, about: dict[str, Any]) -> None:
    """The files of one result."""
    words = request.words
    more = {
        "image": None if request.image is None else request.image.as_posix(),
        "prompt": request.prompt,
        "phrases_by": words.by,
        "left_out": list(words.left_out),
    }
    result.write(folder, {**more, **about}, f"{', '.join(about['names'])}. ")
    if request.image is None:
        write_png(folder / IMAGE, result.image)
    if words.left_out:
        left = ", ".join(words.left_out)
        log.warning("%s: more than max_phrases: no mask for %s", request.image, left)


def _about(config: GroundConfig, method: Method) -> dict[str, Any]:
    """What every result says of the method."""
    return {
        "method": method.name,
        "names": list(method.names),
        "model": method.recipe["model"],
        "seed": config.seed,
    }
