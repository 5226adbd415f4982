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
from dataclasses import replace
from pathlib import Path
from typing import Any

import torch

from diffground.backbone.captions import check_caption
from diffground.data.png_benchmark import PngSample
from diffground.data.png_reading import HELD_OUT, Narratives
from diffground.errors import InputError
from diffground.io.files import read_json, write_json
from diffground.io.notes import FileNote, is_unchanged, note_of
from diffground.papers.png.config import PngConfig
from diffground.papers.png.evaluate import PngEvaluation, evaluate
from diffground.papers.png.feature_store import FeatureStore
from diffground.papers.png.features import count_phrases, feature_key
from diffground.papers.png.keys import Variant
from diffground.papers.png.losses import png_losses
from diffground.papers.png.model import PngModel
from diffground.papers.png.narratives import PngDataset, collate
from diffground.papers.png.pretrained import load_panoptic_weights
from diffground.papers.png.trained import TRAINING, finished, weights_file
from diffground.provenance import Made, say_why
from diffground.training.loop import OnLog, train
from diffground.training.processes import only_training, processes

log = logging.getLogger(__name__)


def read_training(config: PngConfig, coco: Path) -> Narratives:
    """The training split; of held-out nouns too, whose features serve other trainings.

    Raises:
        InputError: the split is missing, or a noun that is held out is no category of it.
    """
    splits, phrases = config.splits, config.data.max_phrases
    limit = splits.train_limit
    read = Narratives.read(coco, splits.train, splits.layout, limit=limit, max_phrases=phrases)
    read.ids_of(splits.held_out, HELD_OUT)  # a wrong name is said before hours of work
    return read


def read_validation(config: PngConfig, coco: Path) -> Narratives:
    """All phrases of the narratives that are evaluated."""
    splits, limit = config.splits, config.eval.limit
    return Narratives.read(coco, splits.val, splits.layout, limit=limit, max_phrases=None)


def train_variant(
    variant: Variant,
    *,
    broken: frozenset[str] = frozenset(),
    on_log: OnLog | None = None,
    narratives: Narratives | None = None,
    validation: Narratives | None = None,
) -> dict[str, Any]:
    """Trains what ``variant`` is, unless that is done, and keeps it in its folder.

    Args:
        broken: ids of samples whose files the doctor could not use.
        on_log: called with the losses and the step.
        narratives, validation: the splits, where they were read before.

    Returns:
        JSON-ready ``{"variant", "trained", "steps", "resumed_at", "seconds", "history", ...}``;
        ``trained`` is False if there was nothing to train, or nothing left: the rest is then
        what the training did when it ran.
    """
    config, folder = variant.config, variant.folder
    if not config.model.learns:
        log.info("%s: static prompting is not trained", variant.name)
        variant.claim()
        return {"variant": variant.name, "trained": False, "seconds": 0.0}
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
            variant.claim()
        # What is wrong with the validation split is said before the training.
        val = validation or read_validation(config, variant.folders.coco)
        read = narratives or read_training(config, variant.folders.coco)
        model, summary = _train(variant, read.without(config.splits.held_out), val, broken, on_log)
        if processes().is_main_process:
            write_json(folder / TRAINING, summary, sealed=True)
            model.save(folder)
        processes().wait_for_everyone()  # whoever loads it next finds it whole
        return summary


def _train(
    variant: Variant,
    narratives: Narratives,
    validation: Narratives,
    broken: frozenset[str],
    on_log: OnLog | None,
) -> tuple[PngModel, dict[str, Any]]:
    """Trains or goes on; the model, and what was done."""
    config, backbone = variant.config, variant.backbone
    usable = _encodable(variant, [s for s in narratives.samples if s.id not in broken])
    log.info("%s: training on %d narratives", variant.name, len(usable))
    torch.manual_seed(config.train.seed)
    model = PngModel(backbone, config.model, narratives.categories.ids)
    if config.model.pretrained:
        assert model.mlma is not None, "pretrained needs decode"
        source = variant.folders.panoptic
        loaded = load_panoptic_weights(model.mlma, model.mask_feature, model.decoder, source)
        log.info("%s: %d tensors from %s", variant.name, len(loaded.loaded), source)
        for name, reason in loaded.skipped:
            log.warning("%s: %s is not from there: %s", variant.name, name, reason)
    dataset = _dataset(variant, replace(narratives, samples=usable))
    if dataset.store is not None:
        dataset.samples = [s for s in usable if dataset.store.problem_of(s) is None]
    evaluator = monitor = None
    if config.train.evaluate_every:
        evaluator, monitor = _evaluator(variant, validation), "overall"
    result = train(
        model=model,
        loss_fn=lambda wrapped, batch: png_losses(
            wrapped(batch), batch.targets, batch.categories, config.loss
        ),
        dataset=dataset,
        collate=collate,
        weight=lambda batch: count_phrases(backbone, batch, config.model.long_captions),
        config=config.train.loop(adapter=config.model.insertion != "none"),
        folder=variant.folder,
        evaluate=evaluator,
        monitor=monitor,
        on_log=on_log,
        key=variant.name,
        description=f"png {config.model.insertion}",
    )
    how = config.train.model_dump(include={"accumulation", "mixed_precision", "evaluate_every"})
    return model, {
        "variant": variant.name,
        "trained": True,
        "how": {  # none of which names the variant
            "processes": processes().num_processes,
            "precision": config.precision,
            "evaluate": config.eval.key_content(),
            **how,
        },
        "data": config.data.model_dump(mode="json"),
        "steps": result.steps,
        "resumed_at": result.resumed_at,
        "seconds": round(result.seconds, 1),
        "narratives": len(dataset),
        "skipped": len(narratives.samples) - len(dataset),
        "adapter_parameters": sum(p.numel() for p in model.eipa.parameters()) if model.eipa else 0,
        "trained_parameters": sum(p.numel() for p in model.trainable_parameters()),
        "history": result.history,
        "best": result.best,
        **Made.now(result.commit).model_dump(),
    }


def evaluate_variant(
    variant: Variant, model: PngModel, validation: Narratives | None = None
) -> tuple[PngEvaluation, dict[str, Any]]:
    """Average Recall on the validation split, and its JSON, which is also kept with the model.

    ``validation`` is that split, where it was read before.
    """
    config, path = variant.config, variant.measured("evaluation")
    read = validation or read_validation(config, variant.folders.coco)
    dataset = _dataset(variant, read)
    if processes().is_main_process:
        variant.claim()
        if not path.exists():
            say_why(path, variant.rule, path.parent.glob("evaluation-*.json"), "key")
    result = evaluate(model, dataset, config.eval, read.ids_of(config.splits.held_out, HELD_OUT))
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
        "narratives": len(dataset),
        "skipped": result.report.to_dict()["skipped"],
        **Made.now().model_dump(),
    }
    if processes().is_main_process:
        write_json(variant.measured("phrases"), result.rows)
        problems = result.report.problems
        if any(problem.may_pass for problem in problems):
            log.warning("%s: files could not be opened: the figures are not kept", variant.name)
        else:
            without = {problem.file: note_of(Path(problem.file)) for problem in problems}
            # Last: it means measured.
            write_json(path, {"key": variant.rule, "metrics": metrics, "without": without})
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


def _dataset(variant: Variant, read: Narratives) -> PngDataset:
    """The narratives, with their cached features if these are to be used and hold all of them."""
    config, store = variant.config, None
    if config.features != "computed":
        root = variant.folders.features
        store = FeatureStore.open(root, feature_key(config, read, variant.backbone))
        if store is not None and not store.covers(read.samples):
            store = None  # extracted for fewer narratives
        if store is None and config.features == "cached":
            reason = f"{read.split} was not cached with these settings; run the pipeline "
            reason += "feature_extraction with them, or set png.features to auto"
            raise InputError(root, "features", reason)
    return PngDataset(read.samples, read.categories, config.data, store)


def _encodable(variant: Variant, samples: list[PngSample]) -> list[PngSample]:
    """The samples whose caption the text encoder can take; the others are named in the log."""
    usable, option = [], variant.config.model.long_captions
    for sample in samples:
        try:
            check_caption(variant.backbone, sample.caption, sample.spans, option)
        except InputError as error:
            log.warning("narrative %s is skipped: %s", sample.id, error)
        else:
            usable.append(sample)
    return usable


def _evaluator(variant: Variant, validation: Narratives) -> Callable[[Any], dict[str, float]]:
    config, dataset = variant.config, _dataset(variant, validation)
    held_out = validation.ids_of(config.splits.held_out, HELD_OUT)

    def measure(model: Any) -> dict[str, float]:
        recall = evaluate(model, dataset, config.eval, held_out).recall
        return {group: value for group, value in recall.result().items() if value is not None}

    return measure
