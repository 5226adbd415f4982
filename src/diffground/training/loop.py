"""The training loop: Accelerate underneath, deterministic, resumable, safe against ``kill -9``.

Everything random derives from ``(seed, step)`` and the order of the data from ``(seed, epoch)``, so
a run that was killed and started again ends with the same numbers as one that was not, and several
processes take the steps of one, whose batch they share: losses differ by the order of float sums.
"""

from __future__ import annotations

import hashlib
import json
import math
import time
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Final

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import send_to_device
from torch import Tensor, nn
from torch.utils.data import Dataset

from diffground.errors import InputError
from diffground.progress import Progress
from diffground.provenance import commit, join_commits
from diffground.seeds import derive_seed
from diffground.training.batches import Batches, shares
from diffground.training.checkpoint import LAST, Average, Checkpoint
from diffground.training.config import TrainConfig
from diffground.training.processes import gathered, processes

# Raised when the same settings, data and model are trained to other weights, here or in this room.
CODE_VERSION: Final = 1

_Groups = dict[tuple[float, float], list[nn.Parameter]]  # factors of (learning rate, decay)


#: ``(model, batch) -> {"loss": scalar, ...}``; further entries are logged.
LossFn = Callable[[nn.Module, Any], dict[str, Tensor]]
#: Called with figures and the step.
OnLog = Callable[[dict[str, float], int], None]


@dataclass
class TrainResult:
    """What a finished training leaves behind. The model holds the final weights."""

    steps: int
    seconds: float  # wall time of this call, resumed parts not counted
    resumed_at: int  # the step this call began with
    metrics: dict[str, float]  # of the last evaluation
    best: dict[str, float]  # of the best one; its weights lie in ``best.safetensors``
    history: list[dict[str, float]] = field(default_factory=list)  # one row per log_every steps
    commit: str = ""  # by which code the steps were taken
    evaluations: list[dict[str, float]] = field(default_factory=list)  # with their steps


def train(
    *,
    model: nn.Module,
    loss_fn: LossFn,
    dataset: Dataset[Any],
    config: TrainConfig,
    folder: Path,
    collate: Callable[[list[Any]], Any] | None = None,
    weight: Callable[[Any], float] | None = None,
    evaluate: Callable[[nn.Module], dict[str, float]] | None = None,
    monitor: str | None = None,
    on_log: OnLog | None = None,
    key: str = "",
    description: str = "train",
) -> TrainResult:
    """Trains the parameters of ``model`` that require a gradient, or continues to.

    Whoever calls it sees to it that no other process trains in the same folder
    (:func:`diffground.training.processes.only_training`).

    Args:
        loss_fn: what it draws at random for its samples it draws by
            :func:`~diffground.training.batches.drawn`, or all processes see the same.
        dataset: map-style and sized. Its items may be read by worker processes. One that has
            ``name(index)`` says so what the user knows a sample by, for messages.
        folder: holds ``last.pt`` (trainable weights, optimizer, averages, history), the checkpoint
            before it as ``before.pt``, and ``best.safetensors``. If a checkpoint is there, training
            continues from it; a damaged one is named and passed over.
        weight: of a batch, how many things its loss is the mean over. A step's loss is then the
            mean over all things of its rounds and processes, however they are shared out. Without
            it every round counts the same.
        evaluate: called every ``config.evaluate_every`` steps and at the end, with the averaged
            weights in place when ``config.ema_decay`` is set, in eval mode and without gradients.
        monitor: the metric of ``evaluate`` that decides which weights are the best: the highest.
        key: whatever else the result depends on (model, data); a checkpoint made under another key
            or another config is refused, but for settings that are not in a config's key.

    Raises:
        InputError: the checkpoint in ``folder`` belongs to a different configuration, or cannot be
            read or written; or the loss or its gradient is not finite: all processes stop before
            the step, and the message names the step and the samples.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    AcceleratorState._reset_state()  # else a second training in this process keeps the precision
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision, cpu=processes().device.type == "cpu"
    )
    groups = _groups(model, config)
    optimizer = _optimizer(groups, config)
    model.to(accelerator.device)
    # Without an evaluation mode it is shared with the processes that were started together.
    wrapped = accelerator.prepare_model(model, evaluation_mode=processes().num_processes == 1)
    optimizer = accelerator.prepare_optimizer(optimizer)
    average = Average(model, config.ema_decay)
    kept = Checkpoint(folder, _key(config, key), model, optimizer, average, accelerator)
    kept.load()
    record, first, main = kept.record, kept.record.step, processes().is_main_process
    if first < config.max_steps:
        record.commit = join_commits([record.commit, commit()])

    batches = Batches(dataset, config, collate, first)
    stepper = _Stepper(kept, wrapped, batches, loss_fn, weight, config, description)
    model.train()
    with Progress(config.max_steps, description, done=first, hidden=not main) as bar:
        for step in range(first, config.max_steps):
            rate = config.learning_rate * config.lr_factor(step)
            for group, (factor, _) in zip(optimizer.param_groups, groups, strict=True):
                group["lr"] = rate * factor
            record.note(stepper.take(step))
            average.update(model, step)
            record.step = step + 1
            bar.update()
            at_end = record.step == config.max_steps
            if record.step % config.log_every == 0 or at_end:
                row = record.flush(rate)
                bar.update(0, f"loss {row['loss']:.4f}")
                if on_log and main:
                    on_log({f"train/{k}": v for k, v in row.items() if k != "step"}, record.step)
            due = config.evaluate_every and record.step % config.evaluate_every == 0
            if evaluate and (due or at_end):
                record.metrics = _evaluated(evaluate, model, average)
                record.evaluations.append(record.metrics | {"step": float(record.step)})
                if on_log and main:
                    on_log({f"eval/{k}": v for k, v in record.metrics.items()}, record.step)
                if monitor:
                    kept.keep_best(monitor, write=main)
            if (record.step % config.checkpoint_every == 0 or at_end) and main:
                kept.save()
    average.copy_to(model)
    model.eval()
    processes().wait_for_everyone()
    return TrainResult(
        config.max_steps,
        time.monotonic() - started,
        first,
        record.metrics,
        record.best,
        record.history,
        record.commit,
        record.evaluations,
    )


@dataclass
class _Stepper:
    """Takes the optimizer's steps, each of which is tested before it is taken."""

    kept: Checkpoint
    wrapped: nn.Module  # the checkpoint's model, as Accelerate prepared it
    batches: Batches
    loss_fn: LossFn
    weight: Callable[[Any], float] | None
    config: TrainConfig
    description: str

    def take(self, step: int) -> dict[str, float]:
        """One step of all processes; returns their losses, which are the whole batch's means."""
        accelerator, optimizer = self.kept.accelerator, self.kept.optimizer
        self._seed(step)
        rounds = self.batches.rounds()
        sums: dict[str, float] = {}
        for index, (batch, share) in enumerate(
            zip(rounds, shares(rounds, self.weight), strict=True)
        ):
            last = index == len(rounds) - 1
            with nullcontext() if last else accelerator.no_sync(self.wrapped):
                losses = self._losses(self.wrapped, batch)
                accelerator.backward(losses["loss"] * share)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * share
        means = _mean(sums)
        if not math.isfinite(means["loss"]):
            self._refuse("loss", step, rounds)
        trained = [p for p in self.kept.model.parameters() if p.requires_grad]
        norm = accelerator.clip_grad_norm_(trained, self.config.grad_clip or math.inf)
        # The norm is the same on every process. Under fp16 the first ones may overflow until the
        # scaler has found its scale; it skips such steps by itself.
        seeking = accelerator.scaler is not None and accelerator.scaler.get_scale() > 1
        if norm is not None and not bool(torch.isfinite(norm)) and not seeking:
            self._refuse("gradient", step, rounds)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        return means

    def _seed(self, step: int) -> None:
        # The same on every process: losses take what is their samples' by `drawn`. What else is
        # drawn, for dropout, is alike for the first sample of all processes, the second, ...
        torch.manual_seed(derive_seed(self.config.seed, "rank0", step))

    def _losses(self, model: nn.Module, batch: Any) -> dict[str, Tensor]:
        with self.kept.accelerator.autocast():
            return self.loss_fn(model, self._placed(batch))

    def _placed(self, batch: Any) -> Any:
        """On the device; from pinned memory it goes there while the one before is computed."""
        device = self.kept.accelerator.device
        return send_to_device(batch, device, non_blocking=device.type == "cuda")

    def _refuse(self, what: str, step: int, rounds: list[Any]) -> None:
        """Ends all processes with the samples whose loss or gradient is not finite.

        Gradients are sums over rounds and processes by now, so each of this process's rounds is
        computed once more, with the same random numbers, and looked at by itself.
        """
        self._seed(step)
        mine = []
        names = self.batches.names(step)
        for batch, samples in zip(rounds, names, strict=True):
            if not self._finite(batch):
                mine += samples
        found = enumerate(gathered(mine))
        blamed = "; ".join(
            f"process {rank}: {', '.join(theirs)}" for rank, theirs in found if theirs
        )
        last = self.kept.folder / LAST
        raise InputError(
            self.kept.folder,
            f"{what} of step {step}",
            f"not finite, so the step is not taken ({self.description}). Samples of "
            f"{blamed or 'no single batch: only their sum is not finite'}. Look at them, or lower "
            f"the learning rate. {f'{last} is from before' if last.exists() else 'Nothing is kept'}"
            f"{', training goes on from it' if last.exists() else ' of this training yet'}",
        )

    def _finite(self, batch: Any) -> bool:
        model = self.kept.model  # not the wrapped one, in which processes wait for each other
        model.zero_grad(set_to_none=True)
        loss = self._losses(model, batch)["loss"]
        loss.backward()
        gradients = [p.grad for p in model.parameters() if p.grad is not None]
        return all(bool(torch.isfinite(tensor).all()) for tensor in (loss, *gradients))


def _mean(sums: dict[str, float]) -> dict[str, float]:
    """The mean over processes, for each name that any of them has."""
    found = gathered(sums)
    names = dict.fromkeys(name for one in found for name in one)
    return {name: sum(one.get(name, 0.0) for one in found) / len(found) for name in names}


def _groups(model: nn.Module, config: TrainConfig) -> _Groups:
    """The parameters that are trained, by their factors of the learning rate and of the decay.

    Raises:
        InputError: a start of a name in ``rate_factors`` or ``decay_factors`` fits no trained
            parameter.
    """
    trained = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for field_name in ("rate_factors", "decay_factors"):
        for start in getattr(config, field_name):
            if not any(name.startswith(start) for name in trained):
                raise InputError("training", field_name, f"no trained parameter begins {start!r}")
    groups: _Groups = {}
    for name, parameter in trained.items():
        factors = (config.rate_factor(name), config.decay_factor(name))
        groups.setdefault(factors, []).append(parameter)
    return groups


def _optimizer(groups: _Groups, config: TrainConfig) -> torch.optim.Optimizer:
    """One group of parameters per pair of factors, in the order of ``groups``."""
    rate, decay = config.learning_rate, config.weight_decay
    parameters = [
        {"params": group, "weight_decay": decay * factor} for (_, factor), group in groups.items()
    ]
    if config.optimizer == "sgd":
        assert config.momentum is not None, "checked by the configuration"
        return torch.optim.SGD(parameters, rate, config.momentum)
    return torch.optim.AdamW(parameters, rate)


def _evaluated(
    evaluate: Callable[[nn.Module], dict[str, float]], model: nn.Module, average: Average
) -> dict[str, float]:
    """Runs ``evaluate`` on the averaged weights and puts the trained ones back."""
    kept = {n: p.detach().clone() for n, p in model.named_parameters() if n in average.shadow}
    average.copy_to(model)
    model.eval()
    with torch.no_grad():
        metrics = evaluate(model)
        for name, parameter in model.named_parameters():
            if name in kept:
                parameter.copy_(kept[name])
    model.train()
    return metrics


def _key(config: TrainConfig, key: str) -> str:
    """What a checkpoint of this training is marked with."""
    content = [config.key_content(), key]
    return hashlib.sha256(json.dumps(content, sort_keys=True).encode()).hexdigest()[:16]
