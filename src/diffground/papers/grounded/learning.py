"""Training a grounding module on synthetic samples (003, section 3.6; 004, Algorithm 1). ::

    learned = learn(frozen, *lesson_sets(chosen), config, models, features)
    module = load_module(learned.folder, frozen.model)

All that the weights depend on goes into a key, and the module lies in a folder of that name: other
settings never mix, a killed training goes on, and a finished one is not repeated. ::

    <models>/<module>-<key>/recipe.json       what the key was made of
                            last.pt, ...      the training's checkpoints
                            training.json     what the training did
                            and what :mod:`.trained` has: weights, the best and the last, and a card

What is frozen is computed once where that helps: text queries of the same names, and features if
they are kept (:class:`~.features.FeatureReader`). Neither grows with the number of samples in
memory.

``B`` samples · ``N`` names · ``C`` channels · ``H, W`` pixels of a picture
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.utils.data import Dataset

from diffground.backbone import frozen as of_frozen
from diffground.backbone.on_demand import Frozen
from diffground.errors import InputError
from diffground.io.files import read_json, write_json
from diffground.masks import mask_loss
from diffground.papers.grounded import features as of_features
from diffground.papers.grounded import losses, measuring, module, queries
from diffground.papers.grounded.feature_maps import feature_maps
from diffground.papers.grounded.features import FeatureReader, FeatureSet
from diffground.papers.grounded.learning_config import LearningConfig
from diffground.papers.grounded.losses import grounding_loss
from diffground.papers.grounded.measuring import measure
from diffground.papers.grounded.module import GroundingModule
from diffground.papers.grounded.queries import embed_queries
from diffground.papers.grounded.samples import Sample, Samples
from diffground.papers.grounded.trained import (
    REMEDY,
    THRESHOLD,
    ModuleCard,
    is_finished,
    module_logits,
    new_module,
    save_module,
)
from diffground.provenance import Made, Recipe, claim, code_of
from diffground.store.manifest import config_hash
from diffground.training import loop
from diffground.training.checkpoint import BEST, load_weights
from diffground.training.loop import OnLog, train
from diffground.training.processes import only_training, processes

# Raised when the same samples and settings give other weights, and not by one of the modules that
# have a number of their own.
CODE_VERSION: Final = 1

TRAINING: Final = "training.json"
#: By which measure of :class:`~diffground.metrics.class_masks.ClassMasks` the best weights are.
MONITOR: Final = "class"
#: Of the synthetic sets, those that a training reads.
LESSONS: Final = ("train", "val")
_QUERIES: Final = 4096  # sets of names whose text queries are kept in memory

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class Learned:
    """A finished training.

    Attributes:
        folder: of the module, for :func:`~.trained.load_module`.
        training: JSON-ready, what the training did: "steps", "history" (losses), "evaluations" and
            "best" (mIoU on validation samples, with their steps), "seconds", "commit" ...;
            "trained" is False if it was done before.
    """

    folder: Path
    training: dict[str, Any]


def lesson_sets(chosen: Mapping[str, Samples]) -> tuple[Samples, Samples]:
    """What is learned from and what the best weights are chosen on, of sets by their names."""
    for name in LESSONS:
        if name not in chosen:
            reason = f"a set of this name is needed beside {', '.join(chosen)}"
            raise InputError("parameters", f"sets.{name}", reason)
    return chosen[LESSONS[0]], chosen[LESSONS[1]]


def learn(
    frozen: Frozen,
    training: Samples,
    validation: Samples,
    config: LearningConfig,
    models: Path,
    features: Path,
    *,
    on_log: OnLog | None = None,
) -> Learned:
    """Trains a module, goes on with it, or finds it done.

    Args:
        training: samples to learn from. Absent classes among their names have empty masks.
        validation: samples to choose the best weights on; of seen classes, and no test samples.
        models: below which the module's folder is made.
        features: below which features are kept, if ``config.cache`` says so.
        on_log: called with losses, or mIoUs, and the step.

    Raises:
        InputError: there are no samples, or not enough for a batch; they are of another frozen
            model; or they lack the unconditional half that the module reads.
    """
    for part in (training, validation):
        part.source.check_model(frozen.fingerprint)
        if not len(part):
            reason = "no sample was taken of it: generate more, or ask less of them"
            raise InputError(part.source.folder, "samples", reason)
    recipe = learning_recipe(frozen, training, validation, config)
    folder = models / f"{config.name}-{config_hash(recipe)[:12]}"
    with only_training(folder):
        kept = read_json(folder / TRAINING) if is_finished(folder) else None
        if kept is not None:
            log.info("%s: already trained", folder.name)
            return Learned(folder, kept | {"trained": False})
        if processes().is_main_process:
            claim(folder, recipe)
        root = features if config.cache else None
        reader = FeatureReader(frozen, config.sizes.read, root)
        lessons = _Lessons(reader, training, config)
        student = new_module(frozen.model, config.sizes, config.train.seed)
        examined = _Student(student, _Lessons(reader, validation, config))
        result = train(
            model=student,
            loss_fn=lambda module, batch: _loss(module, batch, config),
            dataset=lessons,
            collate=collate,
            weight=lambda batch: float(batch["valid"].sum()),
            config=config.train.over(len(training)),
            folder=folder,
            evaluate=lambda module: examined.miou(config.train.batch_size),
            monitor=MONITOR,
            on_log=on_log,
            key=folder.name,
            description=f"grounding {config.name}",
        )
        done: dict[str, Any] = {
            "module": folder.name,
            "trained": True,
            "samples": {"train": len(training), "val": len(validation)},
            "steps": result.steps,
            "resumed_at": result.resumed_at,
            "seconds": round(result.seconds, 1),
            "parameters": sum(p.numel() for p in student.parameters()),
            "history": result.history,
            "evaluations": result.evaluations,
            "best": result.best,
            **Made.now(result.commit).model_dump(),
        }
        if processes().is_main_process:
            write_json(folder / TRAINING, done)
            card = _card(frozen, training, config, Made.now(result.commit))
            save_module(folder, card, student, load_weights(folder / BEST, REMEDY))
        processes().wait_for_everyone()  # whoever loads it next finds it whole
        return Learned(folder, done)


def find_module(
    frozen: Frozen, training: Samples, validation: Samples, config: LearningConfig, models: Path
) -> Path:
    """The folder of a module that was trained so; InputError if there is none."""
    recipe = learning_recipe(frozen, training, validation, config)
    folder = models / f"{config.name}-{config_hash(recipe)[:12]}"
    if not is_finished(folder):
        reason = "no module was trained with these settings and samples, or it was damaged: run "
        raise InputError(folder, "module", f"{reason}`kedro run --pipelines grounding_train`")
    return folder


def learning_recipe(
    frozen: Frozen, training: Samples, validation: Samples, config: LearningConfig
) -> Recipe:
    """All that the weights depend on."""
    modules = (of_frozen, of_features, losses, mask_loss, measuring, module, queries, loop)
    content = config.key_content() | {"module": config.sizes.key_content()}
    return {
        "code": {"learning": CODE_VERSION, **code_of(*modules)},
        "diffusion": frozen.fingerprint,
        "train": training.recipe,
        "val": validation.recipe,
        "config": content,
    }


class _Lessons(Dataset[dict[str, Any]]):
    """Samples as a module learns from them: features, queries and true masks."""

    def __init__(self, reader: FeatureReader, samples: Samples, config: LearningConfig) -> None:
        self.samples, self._read = samples, reader.of(samples)
        model = reader.frozen.model

        @lru_cache(_QUERIES)
        @torch.no_grad()
        def asked(names: tuple[str, ...]) -> Tensor:
            return embed_queries(model, [names], config.query)[0][0].float().cpu()

        self._queries = asked

    def __len__(self) -> int:
        return len(self.samples)

    def __getitem__(self, index: int) -> dict[str, Any]:
        return self.lesson(self.samples[index])

    def lesson(self, sample: Sample) -> dict[str, Any]:
        """What a sample teaches: (C, h, w) by name, (N, C), and (N, H, W)."""
        read: FeatureSet = self._read([sample])
        return {
            "features": {name: maps[0] for name, maps in read.items()},
            "queries": self._queries(sample.names),
            "masks": torch.from_numpy(sample.masks),
        }

    def name(self, index: int) -> str:
        """A sample's id."""
        return self.samples.records.ids[index]


def collate(lessons: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch: (B, C, h, w) by name, queries (B, N, C), masks (B, N, H, W), and valid (B, N).

    Samples with fewer than N names are filled up with queries that are not valid.
    """
    counts = [len(each["queries"]) for each in lessons]
    widest = max(counts)

    def padded(what: str) -> Tensor:
        parts = [each[what] for each in lessons]
        return torch.stack(
            [torch.cat([x, x.new_zeros(widest - len(x), *x.shape[1:])]) for x in parts]
        )

    names = lessons[0]["features"]
    return {
        "features": {n: torch.stack([each["features"][n] for each in lessons]) for n in names},
        "queries": padded("queries"),
        "masks": padded("masks"),
        "valid": torch.arange(widest)[None] < torch.tensor(counts)[:, None],
    }


def _loss(module: nn.Module, batch: dict[str, Any], config: LearningConfig) -> dict[str, Tensor]:
    logits = module(batch["features"], batch["queries"], batch["valid"])
    return {"loss": grounding_loss(logits, batch["masks"], batch["valid"], config.loss)}


class _Student:
    """A module while it learns, as a :class:`~.measuring.Grounder`."""

    threshold = THRESHOLD

    def __init__(self, module: GroundingModule, lessons: _Lessons) -> None:
        self.module, self.lessons = module, lessons

    def scores(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """Probabilities (N, H, W) of each sample."""
        batch = collate([self.lessons.lesson(each) for each in samples])
        logits = module_logits(self.module, batch["features"], batch["queries"], batch["valid"])
        found: list[NDArray[np.float32]] = [each.sigmoid().cpu().numpy() for each in logits]
        return [each[: len(of.names)] for each, of in zip(found, samples, strict=True)]

    def miou(self, batch: int) -> dict[str, float]:
        """Both mIoUs, in percent."""
        found = measure(self, self.lessons.samples, batch=batch, hidden=True).result()
        return {name: found[name] for name in ("class", "image") if found[name] is not None}


def _card(frozen: Frozen, training: Samples, config: LearningConfig, made: Made) -> ModuleCard:
    model, records = frozen.model, training.records
    names = {name for record in records for name in (*record.names, *record.absent)}
    return ModuleCard(
        name=config.name,
        module=config.sizes,
        query=config.query,
        diffusion=model.folder.name,
        fingerprint=frozen.fingerprint,
        maps=feature_maps(model.unet, config.sizes.features),
        text_width=model.context_dim,
        latent_stride=model.latent_stride,
        classes=tuple(sorted(names)),
        size=records[0].size,
        timestep=records[0].timestep,
        generation=training.source.generation,
        made=made,
    )
