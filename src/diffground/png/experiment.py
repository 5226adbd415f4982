"""One PNG experiment from its configuration: read, train (or resume, or find finished), evaluate.

Everything that a result depends on goes into a key, and the trained model lies in a folder of that
name: variants never mix, a killed training goes on, and a finished one is not repeated. ::

    <models>/<insertion>-<key>/last.pt            the training's checkpoint
                               png.safetensors    the trained weights, written at the end
                               png.json           their configuration: its presence means finished
                               training.json      what the training did
                               evaluation-<key>.json   Average Recall under one measuring rule
"""

from __future__ import annotations

import json
import logging
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any, Literal

import torch
from accelerate import PartialState
from pydantic import Field

from diffground.backbone.frozen import FrozenDiffusion
from diffground.config import Config
from diffground.errors import InputError
from diffground.manifest import config_hash
from diffground.png.annotations import CategoryMap
from diffground.png.data import PngDataConfig, PngDataset, collate
from diffground.png.evaluate import PngEvalConfig, PngEvaluation, evaluate
from diffground.png.losses import LossConfig
from diffground.png.model import CONFIG, PngModel, PngModelConfig, outputs_loss
from diffground.png.phrases import check_caption
from diffground.png.samples import PngBenchmark, PngSample
from diffground.png.splits import PngSplits, data_fingerprint, read_split, write_json
from diffground.training.config import TrainConfig
from diffground.training.loop import TrainResult, train

log = logging.getLogger(__name__)

TRAINING = "training.json"

OnLog = Callable[[dict[str, float], int], None]


class PngTrainConfig(TrainConfig):
    """The training loop's settings, and whether to begin anew."""

    restart: bool = False  # throws the variant's checkpoint and finished model away

    def loop(self) -> TrainConfig:
        """The settings that decide the result."""
        return TrainConfig(**self.model_dump(exclude={"restart"}))


class PngConfig(Config):
    """A whole experiment: ``params:png``."""

    scale: Literal["mini", "paper"]  # said beside every number
    device: str = "auto"  # auto = the GPU if there is one
    precision: Literal["float32", "bfloat16", "float16"] = "float32"  # of the frozen model
    splits: PngSplits = PngSplits()
    data: PngDataConfig
    model: PngModelConfig
    loss: LossConfig = LossConfig()
    train: PngTrainConfig
    eval: PngEvalConfig = PngEvalConfig()

    def load_backbone(self, folder: Path) -> FrozenDiffusion:
        """The frozen model on the device and in the precision asked for."""
        device = self.device
        if device == "auto":
            device = "cuda" if torch.cuda.is_available() else "cpu"
        return FrozenDiffusion.from_pretrained(
            folder, device=device, dtype=getattr(torch, self.precision)
        )


class Variant(Config):
    """Where one experiment's results lie."""

    name: str  # <insertion>-<key>
    content: dict[str, Any] = Field(repr=False)  # what the key was made of

    @classmethod
    def of(cls, config: PngConfig, coco: Path, backbone: FrozenDiffusion) -> Variant:
        """From all that the trained weights depend on; zero-shot variants have no training."""
        model = config.model.model_dump(mode="json", exclude={"head", "probability", "threshold"})
        model.pop("checkpoint")  # trades memory for time, no number
        content: dict[str, Any] = {
            "model": model,
            "precision": config.precision,
            "backbone": backbone.fingerprint(),
            "data": config.data.model_dump(mode="json"),
        }
        if config.model.learns:
            aside = {"restart", "log_every", "checkpoint_every", "num_workers"}
            content |= {
                "coco": data_fingerprint(coco),
                "splits": config.splits.model_dump(mode="json", exclude={"val"}),
                "loss": config.loss.model_dump(mode="json"),
                "train": config.train.model_dump(mode="json", exclude=aside),
            }
        return cls(name=f"{config.model.insertion}-{config_hash(content)[:12]}", content=content)

    def evaluation_path(self, models: Path, config: PngConfig, coco: Path) -> Path:
        """Where the Average Recall of this variant lies, measured as ``config`` says."""
        rule = {
            "eval": config.eval.model_dump(mode="json", exclude={"batch_size", "overlays"}),
            "head": config.model.final_head,
            "probability": config.model.probability,
            "threshold": config.model.threshold,
            "val": config.splits.val,
            "coco": data_fingerprint(coco),
        }
        return models / self.name / f"evaluation-{config_hash(rule)[:12]}.json"


def train_variant(
    config: PngConfig,
    coco: Path,
    backbone: FrozenDiffusion,
    models: Path,
    *,
    broken: frozenset[str] = frozenset(),
    on_log: OnLog | None = None,
) -> dict[str, Any]:
    """Trains what ``config`` describes, unless that is done, and keeps it under ``models``.

    Args:
        broken: ids of samples whose files the doctor could not use.
        on_log: called with the losses and the step.

    Returns:
        JSON-ready ``{"variant", "trained", "steps", "resumed_at", "seconds", "history", ...}``;
        ``trained`` is False if there was nothing to train, or nothing left: the rest is then
        what the training did when it ran.
    """
    variant = Variant.of(config, coco, backbone)
    folder = models / variant.name
    summary: dict[str, Any] = {"variant": variant.name, "trained": False, "seconds": 0.0}
    if not config.model.learns:
        log.info("%s: static prompting is not trained", variant.name)
        return summary
    if config.train.restart and folder.exists():
        shutil.rmtree(folder)
    if (folder / CONFIG).exists():
        log.info("%s: already trained", variant.name)
        kept: dict[str, Any] = json.loads((folder / TRAINING).read_text("utf-8"))
        return kept | {"trained": False}
    samples, categories = read_split(
        coco,
        config.splits.train,
        config.splits.layout,
        limit=config.splits.train_limit,
        max_phrases=config.data.max_phrases,
    )
    usable = _encodable(config, backbone, [s for s in samples if s.id not in broken])
    log.info("%s: training on %d narratives", variant.name, len(usable))
    torch.manual_seed(config.train.seed)
    model = PngModel(backbone, config.model, categories.ids)
    result = train(
        model=model,
        loss_fn=lambda wrapped, batch: outputs_loss(wrapped(batch), batch, config.loss),
        dataset=PngDataset(usable, categories, config.data),
        collate=collate,
        config=config.train.loop(),
        folder=folder,
        evaluate=_evaluator(config, coco) if config.train.evaluate_every else None,
        monitor="overall" if config.train.evaluate_every else None,
        on_log=on_log,
        key=variant.name,
        description=f"png {config.model.insertion}",
    )
    summary |= _summary(model, result, len(usable), len(samples) - len(usable))
    _save(model, summary, folder)
    return summary


def load_variant(
    config: PngConfig, coco: Path, backbone: FrozenDiffusion, models: Path
) -> tuple[PngModel, Variant]:
    """The model of ``config`` in eval mode: the trained one, or zero-shot static prompting.

    Raises:
        InputError: it needs training and was not trained with these settings.
    """
    variant = Variant.of(config, coco, backbone)
    if not config.model.learns:
        benchmark = PngBenchmark(coco, config.splits.val, config.splits.layout)
        ids = benchmark.categories.ids
        return PngModel(backbone, config.model, ids).to(backbone.device).eval(), variant
    if not (models / variant.name / CONFIG).exists():
        others = sorted(path.parent.name for path in models.glob(f"*/{CONFIG}"))
        raise InputError(
            models / variant.name,
            "model",
            "no model was trained with these settings; run the pipeline png_train with them, or "
            "evaluate zero-shot with png.model.insertion=none. "
            f"Trained so far: {', '.join(others) or 'none'}",
        )
    model = PngModel.load(models / variant.name, backbone)
    # How a prediction is read off does not depend on the training: the run's choice counts.
    model.config = config.model
    return model, variant


def evaluate_variant(
    config: PngConfig, coco: Path, model: PngModel, variant: Variant, models: Path
) -> tuple[PngEvaluation, dict[str, Any]]:
    """Average Recall on the validation split, and its JSON, which is also kept with the model."""
    samples, categories = _read_validation(config, coco)
    result = evaluate(model, samples, categories, config.data, config.eval)
    metrics = {
        "protocol": config.eval.protocol,
        "plural_rule": config.eval.plural_rule,
        "phrases": result.recall.phrases,
        "ar": result.recall.result(),
        "groups": result.recall.counts(),
        "scale": config.scale,
        "insertion": config.model.insertion,
        "head": config.model.final_head,
        "zero_shot": not config.model.learns,
        "variant": variant.name,
        "narratives": len(samples),
        "skipped": result.report.to_dict()["skipped"],
    }
    path = variant.evaluation_path(models, config, coco)
    path.parent.mkdir(parents=True, exist_ok=True)
    write_json(path, metrics)
    return result, metrics


def _save(model: PngModel, summary: dict[str, Any], folder: Path) -> None:
    if PartialState().is_main_process:
        write_json(folder / TRAINING, summary)
        model.save(folder)


def _summary(model: PngModel, result: TrainResult, used: int, skipped: int) -> dict[str, Any]:
    return {
        "trained": True,
        "steps": result.steps,
        "resumed_at": result.resumed_at,
        "seconds": round(result.seconds, 1),
        "narratives": used,
        "skipped": skipped,
        "adapter_parameters": sum(p.numel() for p in model.eipa.parameters()) if model.eipa else 0,
        "trained_parameters": sum(p.numel() for p in model.trainable_parameters()),
        "history": result.history,
        "best": result.best,
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


def _read_validation(config: PngConfig, coco: Path) -> tuple[list[PngSample], CategoryMap]:
    """All phrases of the narratives that are evaluated."""
    return read_split(
        coco, config.splits.val, config.splits.layout, limit=config.eval.limit, max_phrases=None
    )


def _evaluator(config: PngConfig, coco: Path) -> Callable[[Any], dict[str, float]]:
    samples, categories = _read_validation(config, coco)

    def measure(model: Any) -> dict[str, float]:
        result = evaluate(model, samples, categories, config.data, config.eval).recall.result()
        return {group: value for group, value in result.items() if value is not None}

    return measure
