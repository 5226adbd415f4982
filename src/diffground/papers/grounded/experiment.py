"""One cell of the tables: samples, what learns from them, and how well it finds masks of others.

Each step can be run again at no cost. Samples are made once for all cells that ask for them alike,
and so are modules and their scores::

    <measured>/<method>-<key>/<set>.json   of one set, what `ClassMasks.result` says
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffground.backbone.on_demand import Frozen
from diffground.errors import InputError
from diffground.io.files import read_json, write_json
from diffground.papers.grounded import chance, daam, measuring
from diffground.papers.grounded.chance import Chance
from diffground.papers.grounded.daam import choose_threshold
from diffground.papers.grounded.data_config import GroundingDataConfig
from diffground.papers.grounded.features import FeatureReader, FeatureSet
from diffground.papers.grounded.generation import make_set
from diffground.papers.grounded.learning import learn
from diffground.papers.grounded.learning_config import MeasuringConfig
from diffground.papers.grounded.measuring import Grounder, measure
from diffground.papers.grounded.prompts import planned
from diffground.papers.grounded.samples import Sample, Samples, SyntheticSet
from diffground.papers.grounded.scoring import read_scores, score_set
from diffground.papers.grounded.tables_config import GroundedExperiment, ModelName
from diffground.papers.grounded.trained import FILES, THRESHOLD, TrainedModule, load_module
from diffground.provenance import Made, Recipe, code_of
from diffground.store.items import Item, Summary
from diffground.store.manifest import config_hash, read_manifest
from diffground.training.loop import OnLog
from diffground.training.sharing import fill_together, spent_together

TRAIN, VAL = "train", "val"  # the sets that are learned from; all others are tested on


@dataclass(frozen=True)
class Bench:
    """What cells are made with, and where.

    Attributes:
        models: folders of frozen models, those that there are.
        samples: has the sets of all cells; ``scores`` those of their pictures, ``modules`` what
            was trained, ``features`` what the training keeps, and ``measured`` what came of it.
    """

    models: Mapping[ModelName, Path]
    segmenter: Path
    clip: Path
    samples: Path
    scores: Path
    features: Path
    modules: Path
    measured: Path
    measuring: MeasuringConfig
    _frozen: dict[tuple[ModelName, str, str], Frozen] = field(
        default_factory=dict, init=False, repr=False
    )

    def frozen(self, name: ModelName, config: GroundingDataConfig) -> Frozen:
        """A model, loaded once."""
        key = (name, config.device, config.precision)
        return self._frozen.setdefault(key, Frozen(self.models[name], config))

    def levels(self, name: ModelName) -> int:
        """How many resolutions a model's UNet has, without loading it."""
        path = self.models[name] / "unet/config.json"
        content = read_json(path)
        if content is None:
            raise InputError(path, "file", "it is missing, or cannot be read")
        return len(content["block_out_channels"])


def existing(models: Mapping[ModelName, Path]) -> dict[ModelName, Path]:
    """The models whose folders there are; tables say which are not."""
    return {name: path for name, path in models.items() if path.is_dir()}


@dataclass(frozen=True)
class Taken:
    """What is taken of a set."""

    samples: Samples
    quality: dict[str, float]  # of the pictures by sample, if they were scored
    seconds: dict[str, float]
    made: list[Made]

    @property
    def passing(self) -> float:
        """The part of all attempts that is taken, in percent."""
        attempts = len(self.samples.source.records)
        return 100 * len(self.samples) / attempts


@dataclass
class Cell:
    """What an experiment came to.

    Attributes:
        scores: by the model whose samples were tested, and by set, what
            :meth:`~diffground.metrics.class_masks.ClassMasks.result` says.
        evaluations: of the training, each with its step; none without one.
    """

    train: Taken
    scores: dict[ModelName, dict[str, dict[str, Any]]] = field(default_factory=dict)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    seconds: dict[str, float] = field(default_factory=dict)
    made: list[Made] = field(default_factory=list)

    def add(self, seconds: Mapping[str, float], made: list[Made]) -> None:
        """Counts what took time, and by whom it was made."""
        self.seconds |= seconds
        self.made += made

    @property
    def quality(self) -> float | None:
        """The mean score of the training set's pictures, in percent."""
        ids = self.train.samples.records.ids
        found = [self.train.quality[one] for one in ids if one in self.train.quality]
        return 100 * float(np.mean(found)) if found else None


def take(
    bench: Bench,
    name: str,
    model: ModelName,
    config: GroundingDataConfig,
    *,
    first: int | None = None,
    scored: bool = False,
) -> Taken:
    """Makes what is missing of a set, and chooses.

    Args:
        first: takes so many samples; None: all.
        scored: judges the pictures, even if the choice does not ask for the best.
    """
    frozen = bench.frozen(model, config)
    summary = make_set(name, planned(config)[name], frozen, bench.segmenter, bench.samples, config)
    folder = bench.samples / summary["folder"]
    seconds, made = _counted(folder, summary)
    synthetic = SyntheticSet.open(folder)
    quality: dict[str, float] = {}
    if scored or config.choice.top < 1:
        judged = score_set(synthetic, frozen, bench.clip, bench.scores, config)
        place = bench.scores / judged["folder"]
        quality = read_scores(place)
        more, by = _counted(place, judged)
        seconds, made = seconds | more, made + by
    samples, _ = synthetic.chosen(config.choice, quality or None)
    return Taken(samples[:first], quality, seconds, made)


def run_cell(bench: Bench, config: GroundedExperiment, on_log: OnLog | None = None) -> Cell:
    """Makes what is missing of a cell. Without samples for a batch to learn from there are no
    scores."""
    judged = config.method == "quality"
    train = take(bench, TRAIN, config.model, config.data, first=config.samples, scored=judged)
    cell = Cell(train, seconds=dict(train.seconds), made=list(train.made))
    least = config.learning.train.batch_size if config.learns else 1
    if judged or len(train.samples) < least:
        return cell
    grounders = _Grounders(bench, config, cell, on_log)
    for model in config.tested or (config.model,):
        sets = {} if not config.training else {TRAIN: train.samples}
        for name in config.test.sets:
            if name not in (TRAIN, VAL):
                taken = take(bench, name, model, config.test)
                cell.add(taken.seconds, taken.made)
                sets[name] = taken.samples
        cell.scores[model] = _measured(grounders, model, sets)
    return cell


def _measured(
    grounders: _Grounders, model: ModelName, sets: Mapping[str, Samples]
) -> dict[str, dict[str, Any]]:
    """The scores of sets with a sample; those that are missing are measured."""
    bench, config = grounders.bench, grounders.config
    there = {name: samples for name, samples in sets.items() if len(samples)}
    if not there:
        return {}
    recipe, sources = grounders.recipe(model), grounders.sources
    folder = bench.measured / f"{config.method}-{config_hash(recipe)[:12]}"
    # Sets of other choices lie side by side.
    files = {
        name: f"{name}-{config_hash(samples.recipe)[:12]}.json" for name, samples in there.items()
    }
    by_file = {Path(file).stem: there[name] for name, file in files.items()}
    opened: list[Callable[[Samples], Grounder]] = []

    def ready() -> None:
        opened.append(grounders.open(model))

    def make(item: str) -> dict[str, Any]:
        samples, batch = by_file[item], bench.measuring.batch
        return measure(opened[0](samples), samples, batch=batch, what=item).result()

    def finish(item: str, result: dict[str, Any]) -> None:
        write_json(folder / f"{item}.json", result)

    items = [Item(Path(file).stem, (file,), None, sources) for file in files.values()]
    summary = fill_together(folder, recipe, items, make, finish, what="scores", ready=ready)
    grounders.cell.add(*_counted(folder, summary))
    found = {name: read_json(folder / file) for name, file in files.items()}
    return {name: result for name, result in found.items() if result is not None}


class _Grounders:
    """What finds the masks of a cell, for each model whose samples are tested."""

    def __init__(
        self, bench: Bench, config: GroundedExperiment, cell: Cell, on_log: OnLog | None
    ) -> None:
        self.bench, self.config, self.cell, self.on_log = bench, config, cell, on_log

    @cached_property
    def val(self) -> Samples:
        """What trainings and thresholds are judged by."""
        taken = take(self.bench, VAL, self.config.model, self.config.data)
        self.cell.add(taken.seconds, taken.made)
        return taken.samples

    @cached_property
    def module(self) -> Path:
        """The folder of the module, trained if it is missing."""
        config, bench = self.config, self.bench
        frozen = bench.frozen(config.model, config.data)
        learned = learn(
            frozen, self.cell.train.samples, self.val, config.learning, bench.modules,
            bench.features, on_log=self.on_log,
        )  # fmt: skip
        folder, done = learned.folder, learned.training
        self.cell.evaluations = done["evaluations"]
        self.cell.add({folder.name: done["seconds"]}, [Made.of(done)])
        return folder

    @property
    def sources(self) -> dict[str, Path]:
        """Files that scores are made from, beside the samples."""
        if not self.config.learns:
            return {}
        return {"module": self.module / FILES[self.bench.measuring.weights]}

    def recipe(self, model: ModelName) -> Recipe:
        """All that scores depend on, but for the samples."""
        frozen = self.bench.frozen(model, self.config.test)
        content: dict[str, Any] = {
            "code": code_of(measuring),
            "model": frozen.fingerprint,
            "precision": self.config.test.precision,
        }
        match self.config.method:
            case "module" | "exchanged":
                content |= {"module": self.module.name, "weights": self.bench.measuring.weights}
                if self.config.method == "exchanged":
                    content |= {"names": "exchanged"}
            case "daam":
                assert self.bench.measuring.daam is not None
                content["code"] |= code_of(daam)
                content |= {
                    "daam": self.bench.measuring.daam.key_content(), "val": self.val.recipe,
                }  # fmt: skip
            case _:
                content["code"] |= code_of(chance)
                content |= {
                    "pool": self.cell.train.samples.recipe,
                    "seed": self.config.learning.train.seed,
                }
        return content

    def open(self, model: ModelName) -> Callable[[Samples], Grounder]:
        """Loads it; what is returned opens a set for it."""
        bench, config = self.bench, self.config
        frozen, seed = bench.frozen(model, config.test), config.learning.train.seed
        match config.method:
            case "module" | "exchanged":
                other, weights = model != config.model, bench.measuring.weights
                module = load_module(self.module, frozen.model, weights=weights, other_model=other)
                root = bench.features if config.learning.cache else None
                reader = FeatureReader(frozen, module.card.module.read, root)
                exchanged = config.method == "exchanged"
                return lambda samples: _Reading(module, reader.of(samples), exchanged)
            case "daam":
                assert bench.measuring.daam is not None
                found = choose_threshold(frozen.model, self.val, bench.measuring.daam)
                return lambda _: found
            case _:
                drawn = Chance(self.cell.train.samples, seed)
                return lambda _: drawn


@dataclass(frozen=True, eq=False)
class _Reading:
    """A module that reads kept features: many modules are measured on the same samples.

    Attributes:
        exchanged: a control, each name of a picture is answered with what is found for another
            one of it (the last for the first, and so on). Where this scores no worse, it is not
            the name that the module finds masks by.
    """

    module: TrainedModule
    read: Callable[[Sequence[Sample]], FeatureSet]
    exchanged: bool
    threshold: float = THRESHOLD

    def scores(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """Probabilities (N, H, W) of each sample."""
        masks = self.module.masks(self.read(samples), [sample.names for sample in samples])
        found = [each.cpu().numpy() for each in masks]
        return [each[::-1] for each in found] if self.exchanged else found


def _counted(folder: Path, summary: Summary) -> tuple[dict[str, float], list[Made]]:
    """Seconds of all runs, by folder, and who made what is in it."""
    manifest = read_manifest(folder)
    by = [manifest.made] if manifest else []
    return {folder.name: spent_together(folder, summary)["seconds"]}, by
