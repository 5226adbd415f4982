"""The steps of an experiment with personal objects: learn the items, find them, judge the answers.

Each can be run again at no cost::

    scenes = Scenes.of(Mug19.read(folder))
    learn_items(scenes, frozen, config, models)  # a token for every item
    bench = open_bench(config, frozen, models)
    summary = answer(scenes, bench, models, answers)  # segments and relevances of every picture
    measure(scenes, answers / summary["folder"], config)  # mIoU, bf_acc, af_acc of every split

Answers are a store (:mod:`diffground.store.items`), in a folder that is named by what they depend
on::

    <answers>/<method>-<key>/<view>.png     the segments, label 1 is the first
                             <view>.json    what was asked, and the relevances (Q, S)
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
from numpy.typing import NDArray

from diffground.backbone.on_demand import Frozen
from diffground.data.mug19 import SPLITS, Triplet
from diffground.errors import InputError, ProblemReport
from diffground.io.files import read_json, write_json
from diffground.io.images import read_image
from diffground.io.labels import read_labels, write_labels
from diffground.metrics.assignment import (
    NOBODY,
    ReferringScores,
    answers,
    match_centres,
)
from diffground.papers.personalized.config import PersonalizedConfig
from diffground.papers.personalized.item_tokens import (
    learn_items,
    read_tokens,
    token_files,
    tokens_folder,
    tokens_recipe,
)
from diffground.papers.personalized.methods import Method
from diffground.papers.personalized.queries import Query
from diffground.papers.personalized.rows import Bench, kind_of, method_recipe
from diffground.papers.personalized.scenes import Scenes, View
from diffground.store.items import Item, Summary
from diffground.store.manifest import config_hash, is_valid
from diffground.training.sharing import fill_together, spent_together

__all__ = ["Answer", "answer", "learn_items", "measure", "open_bench"]

WORDS = "clip_words"  # below the folder of all tokens
MOST_SEGMENTS = 254  # labels of a PNG; 255 is "unsure"


@dataclass(frozen=True)
class Answer:
    """What a method said of one picture.

    Attributes:
        segments: bool ``(S, H, W)``.
        queries: what was asked, ``Q``, as :func:`query_key` writes it.
        relevance: ``(Q, S)``.
    """

    segments: NDArray[np.bool_]
    queries: tuple[str, ...]
    relevance: NDArray[np.float64]

    @classmethod
    def read(cls, folder: Path, view: View) -> Self:
        """InputError for files that are missing or of something else."""
        content = read_json(folder / f"{view.id}.json")
        if content is None:
            reason = "there is no answer that can be read; run `personalized` again"
            raise InputError(folder / f"{view.id}.json", "answer", reason)
        labels = read_labels(folder / f"{view.id}.png")
        count = int(content["segments"])
        segments = np.zeros((count, *labels.shape), dtype=bool)
        for number in range(count):
            segments[number] = labels == number + 1
        queries = tuple(content["queries"])
        relevance = np.array(content["relevance"], np.float64).reshape(len(queries), count)
        return cls(segments, queries, relevance)

    def rows(self, queries: list[Query]) -> NDArray[np.float64]:
        """The relevances of some queries, in their order; InputError for one not asked."""
        keys = [query_key(query) for query in queries]
        if unknown := [key for key in keys if key not in self.queries]:
            reason = f"{unknown[0]!r} was not asked; run `personalized` again"
            raise InputError("answers", "queries", reason)
        return self.relevance[[self.queries.index(key) for key in keys]]


def open_bench(
    config: PersonalizedConfig,
    frozen: Frozen,
    root: Path,
    models: Mapping[str, Path] | None = None,
) -> Bench:
    """What the configured method is opened with; ``root`` has the tokens of all settings."""
    tokens = read_tokens(tokens_folder(root, frozen.fingerprint, config))
    return Bench(config, frozen, tokens, models or {}, root / WORDS)


def answer(scenes: Scenes, bench: Bench, root: Path, folder: Path) -> Summary:
    """Asks the configured method about every picture, as far as its answers are missing.

    A picture that cannot be read, or whose item could not be learned, is reported.

    Args:
        root: has the tokens of all settings.
        folder: gets a folder for these answers.

    Returns:
        What the store did; its ``folder`` is the name of the answers' folder. Seconds are those of
        all runs that made them.
    """
    config = bench.config
    kind, fingerprint = kind_of(config.method), bench.frozen.fingerprint
    recipe = method_recipe(bench) | {"data": scenes.data}
    if kind.learns:
        recipe["tokens"] = tokens_recipe(fingerprint, config)
    target = folder / f"{config.method.replace('+', '_')}-{config_hash(recipe)[:12]}"
    tokens = tokens_folder(root, fingerprint, config)
    opened: list[Method] = []

    def ready() -> None:
        opened.append(kind.open(bench))

    def make(name: str) -> tuple[NDArray[np.bool_], list[Query], NDArray[np.float64]]:
        view, (method,) = scenes.view(name), opened
        image = read_image(view.image)
        objects, asked, seed = scenes.objects(view), scenes.asked(view), config.seed
        segments = method.segments(image, objects, item=name, seed=seed)
        relevance = method.relevance(image, segments, asked, item=name, seed=seed)
        assert relevance.shape == (len(asked), len(segments)), relevance.shape
        return segments[:MOST_SEGMENTS], asked, relevance[:, :MOST_SEGMENTS]

    def finish(name: str, made: tuple[NDArray[np.bool_], list[Query], NDArray[np.float64]]) -> None:
        segments, asked, relevance = made
        labels = np.zeros(segments.shape[1:], np.uint8)
        for number, mask in enumerate(segments, start=1):
            labels[mask] = number
        write_labels(target / f"{name}.png", labels)
        content = {
            "segments": len(segments),
            "queries": [query_key(query) for query in asked],
            "relevance": relevance.tolist(),
        }
        write_json(target / f"{name}.json", content)

    items = []
    for view in scenes.views:
        asked = scenes.asked(view)
        sources = {"image": view.image}
        if kind.learns:
            sources |= token_files(tokens, sorted({query.item for query in asked}))
        files = (f"{view.id}.png", f"{view.id}.json")
        items.append(Item(view.id, files, [query_key(query) for query in asked], sources))
    summary = fill_together(
        target, recipe, items, make, finish,
        what="answers", work=config.work.unfinished(), ready=ready,
    )  # fmt: skip
    return {**summary, "seconds": spent_together(target, summary)["seconds"]}


def measure(scenes: Scenes, folder: Path, config: PersonalizedConfig) -> dict[str, Any]:
    """The scores of answers by split, read from their files.

    Returns:
        JSON-ready ``{"answers", "complete", "scale", "method", "matching", "splits", "segments",
        "skipped"}``: for each split what
        :meth:`~diffground.metrics.assignment.ReferringScores.result` says; how many segments the
        pictures have, "as objects", "fewer" or "more"; and the report of pictures that are not
        among them.
    """
    report, scores = ProblemReport(), {split: ReferringScores() for split in SPLITS}
    counts = {"as objects": 0, "fewer": 0, "more": 0}
    for view in scenes.views:
        report.total += 1
        try:
            judged = judge(scenes, view, Answer.read(folder, view), config)
        except InputError as error:
            report.add(view.id, error)
            continue
        counts[judged.count] += 1
        for split, found in scores.items():
            for triplet in view.triplets:
                if split in triplet.splits:
                    found.update(**judged.triplets[triplet.id])
    return {
        "answers": folder.name,
        "complete": is_valid(folder),
        "scale": config.scale,
        "method": config.method,
        "matching": config.matching,
        "splits": {split: found.result() for split, found in scores.items()},
        "segments": counts,
        "skipped": report.to_dict(),
    }


@dataclass(frozen=True)
class Judged:
    """A picture's answers beside the truth.

    Attributes:
        triplets: by id what :meth:`~diffground.metrics.assignment.ReferringScores.update` takes.
        count: of segments, "as objects", "fewer" or "more".
    """

    triplets: dict[str, dict[str, Any]]
    count: str


def judge(scenes: Scenes, view: View, found: Answer, config: PersonalizedConfig) -> Judged:
    """Assigns segments to the triplets of a picture, alone and together, and to its instances.

    Raises:
        InputError: the picture's mask cannot be read, or lacks an object; or the answer is of other
            queries, or of a picture of another size.
    """
    instances, places = view.load_instances(), view.places()
    if found.segments.shape[1:] != instances.shape[1:]:
        reason = f"segments are {found.segments.shape[1:]}, the mask {instances.shape[1:]}"
        raise InputError(view.mask, "size", reason)
    truth = match_centres(instances, found.segments, config.matching)

    def of(triplet: Triplet) -> dict[str, Any]:
        relevance = found.rows(scenes.together(view, triplet))
        alone = answers(relevance[:1], found.segments, together=False)
        shared = answers(relevance, found.segments, together=True)
        place = places[triplet.id]
        return {
            "target": instances[place],
            "segments": found.segments,
            "bf": int(alone[0]),
            "af": int(shared[0]),
            "truth": int(truth[place]),
        }

    excess = len(found.segments) - len(instances)
    count = "as objects" if excess == 0 else "fewer" if excess < 0 else "more"
    return Judged({triplet.id: of(triplet) for triplet in view.triplets}, count)


def answer_mask(segments: NDArray[np.bool_], place: int) -> NDArray[np.bool_]:
    """The mask (H, W) of an answer, empty for :data:`~diffground.metrics.assignment.NOBODY`."""
    return np.zeros(segments.shape[1:], bool) if place == NOBODY else segments[place]


def query_key(query: Query) -> str:
    """What a query is, in a line: its item and its words."""
    return f"{query.item}: {query.context}"


def figures_of(result: dict[str, Any]) -> dict[str, float]:
    """What the run log keeps of :func:`measure`: each split's scores by name."""
    return {
        f"{split}/{name.replace(', ', '_')}": value
        for split, scores in result["splits"].items()
        for name, value in scores.items()
        if value is not None and name != "triplets"
    }
