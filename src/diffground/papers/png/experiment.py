"""One PNG experiment from its configuration: read, train (or resume, or find finished), evaluate.

Everything that a result depends on goes into a key, and the trained model lies in a folder of that
name: variants never mix, a killed training goes on, and a finished one is not repeated. ::

    <models>/<insertion>-<key>/recipe.json     what the key was made of
                               last.pt            the training's checkpoint
                               before.pt          the one before it, should that be damaged
                               best.safetensors   with png.train.evaluate_every: the best weights
                               png.safetensors    the trained weights, written at the end
                               png.json           their configuration: its presence means finished
                               training.json      what the training did
                               evaluation-<key>.json   Average Recall under one measuring rule
                               phrases-<key>.json      every phrase's IoU behind it

What a training writes is sealed (``<file>.sha256``). A finished model of which a file was damaged
is written again from ``last.pt`` by the same training.
"""

from __future__ import annotations

import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import torch

from diffground.backbone.captions import check_caption
from diffground.backbone.frozen import FrozenDiffusion
from diffground.data.png_benchmark import PngSample
from diffground.data.png_reading import Narratives
from diffground.errors import InputError
from diffground.io.files import read_json, write_json
from diffground.io.notes import FileNote, is_unchanged, note_of
from diffground.papers.png.config import PngConfig, PngFolders
from diffground.papers.png.evaluate import PngEvaluation, evaluate
from diffground.papers.png.features import FeatureStore, count_phrases, open_store
from diffground.papers.png.keys import Variant
from diffground.papers.png.model import PngModel, outputs_loss
from diffground.papers.png.narratives import PngDataset, collate
from diffground.papers.png.pretrained import load_panoptic_weights
from diffground.papers.png.trained import TRAINING, finished, weights_file
from diffground.provenance import Made, claim, say_why
from diffground.training.loop import TrainResult, train
from diffground.training.processes import only_training, processes

log = logging.getLogger(__name__)

OnLog = Callable[[dict[str, float], int], None]


def train_variant(
    config: PngConfig,
    folders: PngFolders,
    backbone: FrozenDiffusion,
    *,
    broken: frozenset[str] = frozenset(),
    on_log: OnLog | None = None,
    narratives: Narratives | None = None,
    validation: Narratives | None = None,
) -> dict[str, Any]:
    """Trains what ``config`` describes, unless that is done, and keeps it in ``folders.models``.

    Args:
        broken: ids of samples whose files the doctor could not use.
        on_log: called with the losses and the step.
        narratives, validation: the splits, where they were read before.

    Returns:
        JSON-ready ``{"variant", "trained", "steps", "resumed_at", "seconds", "history", ...}``;
        ``trained`` is False if there was nothing to train, or nothing left: the rest is then
        what the training did when it ran.
    """
    variant = Variant.of(config, folders, backbone)
    folder = folders.models / variant.name
    summary: dict[str, Any] = {"variant": variant.name, "trained": False, "seconds": 0.0}
    if not config.model.learns:
        log.info("%s: static prompting is not trained", variant.name)
        claim(folder, variant.content)
        return summary
    with only_training(folder):
        if config.train.restart:
            if processes().is_main_process:
                shutil.rmtree(folder, ignore_errors=True)
            processes().wait_for_everyone()
        kept = finished(folder)
        if kept is not None:
            log.info("%s: already trained", variant.name)
            weights_file(config, folder)
            return kept | {"trained": False}
        if processes().is_main_process:
            claim(folder, variant.content)
        # What is wrong with the validation split is said before the training.
        val = validation or read_validation(config, folders.coco)
        read = narratives or read_training(config, folders.coco)
        return summary | _train(config, folders, backbone, variant, read, val, broken, on_log)


def _train(
    config: PngConfig,
    folders: PngFolders,
    backbone: FrozenDiffusion,
    variant: Variant,
    narratives: Narratives,
    validation: Narratives,
    broken: frozenset[str],
    on_log: OnLog | None,
) -> dict[str, Any]:
    """Trains or goes on, keeps the model, and says what was done."""
    folder = folders.models / variant.name
    samples, categories = narratives.samples, narratives.categories
    usable = _encodable(config, backbone, [s for s in samples if s.id not in broken])
    log.info("%s: training on %d narratives", variant.name, len(usable))
    torch.manual_seed(config.train.seed)
    model = PngModel(backbone, config.model, categories.ids)
    if config.model.pretrained:
        assert model.mlma is not None, "pretrained needs decode"
        loaded = load_panoptic_weights(
            model.mlma, model.mask_feature, model.decoder, folders.panoptic
        )
        log.info("%s: %d tensors from %s", variant.name, len(loaded.loaded), folders.panoptic)
        for name, reason in loaded.skipped:
            log.warning("%s: %s is not from there: %s", variant.name, name, reason)
    store = _store(config, folders, backbone, config.splits.train, usable, config.data.max_phrases)
    if store is not None:
        usable = [sample for sample in usable if store.problem_of(sample) is None]
    result = train(
        model=model,
        loss_fn=lambda wrapped, batch: outputs_loss(wrapped(batch), batch, config.loss),
        dataset=PngDataset(usable, categories, config.data, store),
        collate=collate,
        weight=lambda batch: count_phrases(backbone, batch, config.model.long_captions),
        config=config.train.loop(adapter=config.model.insertion != "none"),
        folder=folder,
        evaluate=_evaluator(config, folders, backbone, validation)
        if config.train.evaluate_every
        else None,
        monitor="overall" if config.train.evaluate_every else None,
        on_log=on_log,
        key=variant.name,
        description=f"png {config.model.insertion}",
    )
    summary = {"variant": variant.name} | _summary(
        model, config, result, len(usable), len(samples) - len(usable)
    )
    _save(model, summary, folder)
    return summary


def evaluate_variant(
    config: PngConfig,
    folders: PngFolders,
    model: PngModel,
    variant: Variant,
    validation: Narratives | None = None,
) -> tuple[PngEvaluation, dict[str, Any]]:
    """Average Recall on the validation split, and its JSON, which is also kept with the model.

    ``validation`` is that split, where it was read before.
    """
    read = validation or read_validation(config, folders.coco)
    samples, categories = read.samples, read.categories
    store = _store(config, folders, model.backbone, config.splits.val, samples, None)
    path, rule = variant.evaluation_path(config, folders), variant.rule(config, folders)
    if processes().is_main_process:
        claim(path.parent, variant.content)
        if not path.exists():
            say_why(path, rule, path.parent.glob("evaluation-*.json"), "key")
    result = evaluate(model, samples, categories, config.data, config.eval, store)
    metrics: dict[str, Any] = {
        "protocol": config.eval.protocol,
        "plural_rule": config.eval.plural_rule,
        "phrases": result.recall.phrases,
        "ar": result.recall.result(),
        "groups": result.recall.counts(),
        "scale": config.scale,
        "insertion": config.model.insertion,
        "heads": list(config.model.heads),
        "head": config.model.final_head,
        "zero_shot": not config.model.learns,
        "variant": variant.name,
        "narratives": len(samples),
        "skipped": result.report.to_dict()["skipped"],
        **Made.now().model_dump(),
    }
    if processes().is_main_process:
        write_json(variant.phrases_path(config, folders), result.rows)
        problems = result.report.problems
        if any(problem.may_pass for problem in problems):
            log.warning("%s: files could not be opened: the figures are not kept", variant.name)
        else:
            without = {problem.file: note_of(Path(problem.file)) for problem in problems}
            # Last: it means measured.
            write_json(path, {"key": rule, "metrics": metrics, "without": without})
    return result, metrics


def kept_evaluation(path: Path) -> dict[str, Any] | None:
    """The metrics that :func:`evaluate_variant` kept; None if there are none that still hold.

    They do not once a file that was left out as broken is another one.
    """
    content = read_json(path)
    if content is None or not {"metrics", "without"} <= content.keys():
        return None
    for file, note in content["without"].items():
        if not is_unchanged(Path(file), FileNote(*note) if note else None):
            return None
    found: dict[str, Any] = content["metrics"]
    return found


def _store(
    config: PngConfig,
    folders: PngFolders,
    backbone: FrozenDiffusion,
    split: str,
    samples: list[PngSample],
    max_phrases: int | None,
) -> FeatureStore | None:
    """The cached features of a split, if they are to be used and hold all of ``samples``."""
    if config.features == "computed":
        return None
    store = open_store(
        folders.features,
        folders.coco,
        split,
        config.data,
        config.model.long_captions,
        config.model.frozen_precision,
        backbone,
        max_phrases=max_phrases,
    )
    if store is not None and not store.covers(samples):
        store = None  # extracted for fewer narratives
    if store is None and config.features == "cached":
        raise InputError(
            folders.features,
            "features",
            f"{split} was not cached with these settings; run the pipeline feature_extraction "
            "with them, or set png.features to auto",
        )
    return store


def _save(model: PngModel, summary: dict[str, Any], folder: Path) -> None:
    if processes().is_main_process:
        write_json(folder / TRAINING, summary, sealed=True)
        model.save(folder)
    processes().wait_for_everyone()  # whoever loads it next finds it whole


def _summary(
    model: PngModel, config: PngConfig, result: TrainResult, used: int, skipped: int
) -> dict[str, Any]:
    settings = {
        "processes": processes().num_processes,
        "precision": config.precision,
        "evaluate": config.eval.key_content(),
    }
    for name in ("accumulation", "mixed_precision", "evaluate_every"):
        settings[name] = getattr(config.train, name)
    return {
        "trained": True,
        "how": settings,  # none of which names the variant
        "data": config.data.model_dump(mode="json"),
        "steps": result.steps,
        "resumed_at": result.resumed_at,
        "seconds": round(result.seconds, 1),
        "narratives": used,
        "skipped": skipped,
        "adapter_parameters": sum(p.numel() for p in model.eipa.parameters()) if model.eipa else 0,
        "trained_parameters": sum(p.numel() for p in model.trainable_parameters()),
        "history": result.history,
        "best": result.best,
        **Made.now(result.commit).model_dump(),
    }


def _encodable(
    config: PngConfig, backbone: FrozenDiffusion, samples: list[PngSample]
) -> list[PngSample]:
    """The samples whose caption the text encoder can take; the others are named in the log."""
    usable = []
    for sample in samples:
        try:
            check_caption(backbone, sample.caption, sample.spans, config.model.long_captions)
        except InputError as error:
            log.warning("narrative %s is skipped: %s", sample.id, error)
        else:
            usable.append(sample)
    return usable


def read_training(config: PngConfig, coco: Path) -> Narratives:
    """What the model is trained on."""
    splits, phrases = config.splits, config.data.max_phrases
    limit = splits.train_limit
    return Narratives.read(coco, splits.train, splits.layout, limit=limit, max_phrases=phrases)


def read_validation(config: PngConfig, coco: Path) -> Narratives:
    """All phrases of the narratives that are evaluated."""
    splits, limit = config.splits, config.eval.limit
    return Narratives.read(coco, splits.val, splits.layout, limit=limit, max_phrases=None)


def _evaluator(
    config: PngConfig, folders: PngFolders, backbone: FrozenDiffusion, validation: Narratives
) -> Callable[[Any], dict[str, float]]:
    samples, categories = validation.samples, validation.categories
    store = _store(config, folders, backbone, config.splits.val, samples, None)

    def measure(model: Any) -> dict[str, float]:
        found = evaluate(model, samples, categories, config.data, config.eval, store)
        return {group: v for group, v in found.recall.result().items() if v is not None}

    return measure
