"""The training loop: Accelerate underneath, deterministic, resumable, safe against ``kill -9``.

Everything random derives from ``(seed, step)`` and the order of the data from ``(seed, epoch)``, so
a run that was killed and started again ends with the same numbers as one that was not.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import time
from collections.abc import Callable, Iterator, Sequence, Sized
from contextlib import nullcontext
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, Protocol, cast

import torch
from accelerate import Accelerator
from accelerate.state import AcceleratorState
from accelerate.utils import gather_object, send_to_device
from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import DataLoader, Dataset

from diffground.errors import InputError
from diffground.progress import Progress
from diffground.seeds import derive_seed, generator
from diffground.training.config import TrainConfig
from diffground.training.processes import processes

log = logging.getLogger(__name__)

LAST, BEST = "last.pt", "best.safetensors"
NOT_IN_KEY = {"log_every", "checkpoint_every", "num_workers"}  # they do not change the result

_Groups = dict[tuple[float, float], list[nn.Parameter]]  # factors of (learning rate, decay)


class LossFn(Protocol):
    """``(model, batch) -> {"loss": scalar, ...}``; further entries are logged."""

    def __call__(self, model: nn.Module, batch: Any) -> dict[str, Tensor]: ...


@dataclass
class TrainResult:
    """What a finished training leaves behind. The model holds the final weights."""

    steps: int
    seconds: float  # wall time of this call, resumed parts not counted
    resumed_at: int  # the step this call began with
    metrics: dict[str, float]  # of the last evaluation
    best: dict[str, float]  # of the best one; its weights lie in ``best.safetensors``
    history: list[dict[str, float]] = field(default_factory=list)  # one row per log_every steps


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
    minimise: bool = False,
    on_log: Callable[[dict[str, float], int], None] | None = None,
    key: str = "",
    description: str = "train",
) -> TrainResult:
    """Trains the parameters of ``model`` that require a gradient, or continues to.

    Args:
        dataset: map-style and sized. Its items may be read by worker processes.
        folder: holds ``last.pt`` (trainable weights, optimizer, averages, history) and
            ``best.safetensors``. If ``last.pt`` is there, training continues from it.
        weight: of a batch, how many things its loss is the mean over. A step's loss is then the
            mean over all things of its rounds and processes, however they are shared out. Without
            it every round counts the same.
        evaluate: called every ``config.evaluate_every`` steps and at the end, with the averaged
            weights in place when ``config.ema_decay`` is set, in eval mode and without gradients.
        monitor: the metric of ``evaluate`` that decides which weights are the best.
        key: whatever else the result depends on (model, data); a checkpoint made under another key
            or another config is refused. ``evaluate_every`` may change unless there is a monitor.

    Raises:
        InputError: the checkpoint in ``folder`` belongs to a different configuration.
        FloatingPointError: the loss is not finite; the message names the step.
    """
    started = time.monotonic()
    folder.mkdir(parents=True, exist_ok=True)
    AcceleratorState._reset_state()  # else a second training in this process keeps the precision
    accelerator = Accelerator(
        mixed_precision=config.mixed_precision, cpu=processes().device.type == "cpu"
    )
    world = accelerator.num_processes * config.accumulation
    if config.batch_size % world:
        raise InputError(
            "training",
            "batch_size",
            f"{config.batch_size} is no multiple of {world} (processes x accumulation)",
        )
    trainable = [p for p in model.parameters() if p.requires_grad]
    groups = _groups(model, config)
    optimizer = _optimizer(groups, config)
    model.to(accelerator.device)
    wrapped, optimizer = accelerator.prepare(model, optimizer)
    average = _Average(model, config.ema_decay)
    state = _State(folder / LAST, _keys(config, key, monitor))
    state.load(model, optimizer, average, accelerator)
    first = state.step

    batches = _batches(dataset, config, collate, accelerator, first)
    bar = Progress(
        config.max_steps, description, done=first, hidden=not accelerator.is_main_process
    )
    model.train()
    for step in range(first, config.max_steps):
        torch.manual_seed(derive_seed(config.seed, f"rank{accelerator.process_index}", step))
        rate = _set_rates(optimizer, groups, config.learning_rate * config.lr_factor(step))
        sums: dict[str, float] = {}
        rounds = [next(batches) for _ in range(config.accumulation)]
        shares = _shares(rounds, weight)
        for index, (batch, share) in enumerate(zip(rounds, shares, strict=True)):
            last = index == config.accumulation - 1
            with nullcontext() if last else accelerator.no_sync(wrapped):
                with accelerator.autocast():
                    losses = loss_fn(wrapped, send_to_device(batch, accelerator.device))
                accelerator.backward(losses["loss"] * share)
            for name, value in losses.items():
                sums[name] = sums.get(name, 0.0) + float(value.detach()) * share
        if not torch.isfinite(torch.tensor(sums["loss"])):
            raise FloatingPointError(f"{description}: the loss is {sums['loss']} at step {step}")
        if config.grad_clip:
            accelerator.clip_grad_norm_(trainable, config.grad_clip)
        optimizer.step()
        optimizer.zero_grad(set_to_none=True)
        average.update(model, step)
        state.step = step + 1
        bar.update()
        state.note(sums)
        if state.step % config.log_every == 0 or state.step == config.max_steps:
            row = state.flush(rate)
            bar.update(0, f"loss {row['loss']:.4f}")
            if on_log and accelerator.is_main_process:
                on_log({f"train/{k}": v for k, v in row.items() if k != "step"}, state.step)
        at_end = state.step == config.max_steps
        due = config.evaluate_every and state.step % config.evaluate_every == 0
        if evaluate and (due or at_end):
            metrics = _evaluated(evaluate, model, average)
            state.metrics = metrics
            if on_log and accelerator.is_main_process:
                on_log({f"eval/{k}": v for k, v in metrics.items()}, state.step)
            if monitor and accelerator.is_main_process:
                state.keep_best(model, average, monitor, minimise, folder / BEST)
        if (state.step % config.checkpoint_every == 0 or at_end) and accelerator.is_main_process:
            state.save(model, optimizer, average, accelerator)
    bar.close()
    average.copy_to(model)
    model.eval()
    accelerator.wait_for_everyone()
    return TrainResult(
        config.max_steps,
        time.monotonic() - started,
        first,
        state.metrics,
        state.best,
        state.history,
    )


def _shares(rounds: Sequence[Any], weight: Callable[[Any], float] | None) -> list[float]:
    """What the loss of each of this process's rounds is multiplied by; gradients are summed.

    The processes' gradients are averaged, so it is a round's weight over that of all rounds of a
    process, on average over the processes.
    """
    if weight is None:
        return [1.0 / len(rounds)] * len(rounds)
    mine = [float(weight(batch)) for batch in rounds]
    total = sum(gather_object(mine)) / processes().num_processes
    return [value / total if total else 0.0 for value in mine]


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
    return torch.optim.AdamW(parameters, rate, config.betas)


def _set_rates(optimizer: Any, groups: _Groups, rate: float) -> float:
    """Sets the learning rate of every group, and returns that of the groups without a factor."""
    for group, (factor, _) in zip(optimizer.param_groups, groups, strict=True):
        group["lr"] = rate * factor
    return rate


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """The trained parameters of ``model``, and the buffers beside them, copied to the CPU."""
    state = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for prefix, module in model.named_modules():
        if any(p.requires_grad for p in module.parameters(recurse=False)):
            lost = module._non_persistent_buffers_set
            for name, buffer in module.named_buffers(recurse=False):
                if name not in lost:
                    state[f"{prefix}.{name}" if prefix else name] = cast(Any, buffer)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


def load_trainable(model: nn.Module, path: Path) -> None:
    """Loads what :func:`trainable_state` gave and ``safetensors`` stored.

    Raises:
        InputError: the names in the file are not those of the model's trained parameters.
    """
    _put(model, load_file(path), path)


def atomic_save(write: Callable[[Path], None], path: Path) -> None:
    """Writes beside ``path`` and renames: a reader sees the old file or the whole new one."""
    partial = path.with_name(path.name + ".partial")
    write(partial)
    with partial.open("rb") as handle:
        os.fsync(handle.fileno())
    partial.replace(path)


class _Average:
    """An exponential moving average of the trained parameters, ramped up over the first steps."""

    def __init__(self, model: nn.Module, decay: float) -> None:
        self.decay = decay
        self.shadow = (
            {n: p.detach().clone() for n, p in model.named_parameters() if p.requires_grad}
            if decay
            else {}
        )

    @torch.no_grad()
    def update(self, model: nn.Module, step: int) -> None:
        if self.decay:
            decay = min(self.decay, (1 + step) / (10 + step))
            for name, parameter in model.named_parameters():
                if name in self.shadow:
                    self.shadow[name].lerp_(parameter.detach(), 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        for name, parameter in model.named_parameters():
            if name in self.shadow:
                parameter.copy_(self.shadow[name])


class _State:
    """What is saved between steps, and the running means between two rows of the history."""

    def __init__(self, path: Path, keys: tuple[str, ...]) -> None:
        self.path, self.keys = path, keys
        self.step = 0
        self.metrics: dict[str, float] = {}
        self.best: dict[str, float] = {}
        self.history: list[dict[str, float]] = []
        self._sums: dict[str, float] = {}
        self._count = 0

    def note(self, losses: dict[str, float]) -> None:
        self._count += 1
        for name, value in losses.items():
            self._sums[name] = self._sums.get(name, 0.0) + value

    def flush(self, learning_rate: float) -> dict[str, float]:
        row = {name: value / self._count for name, value in self._sums.items()}
        row |= {"lr": learning_rate, "step": float(self.step)}
        self._sums, self._count = {}, 0
        self.history.append(row)
        return row

    def keep_best(
        self, model: nn.Module, average: _Average, monitor: str, minimise: bool, path: Path
    ) -> None:
        value = self.metrics[monitor]
        sign = -1.0 if minimise else 1.0
        if self.best and sign * value <= sign * self.best[monitor]:
            return
        self.best = {**self.metrics, "step": float(self.step)}
        weights = trainable_state(model)
        weights |= {name: tensor.detach().cpu() for name, tensor in average.shadow.items()}
        atomic_save(lambda target: save_file(weights, target), path)

    def save(
        self, model: nn.Module, optimizer: Any, average: _Average, accelerator: Accelerator
    ) -> None:
        content = {
            "key": self.keys[0],
            "step": self.step,
            "model": trainable_state(model),
            "optimizer": optimizer.state_dict(),
            "average": average.shadow,
            "scaler": accelerator.scaler.state_dict() if accelerator.scaler else None,
            "metrics": self.metrics,
            "best": self.best,
            "history": self.history,
            "sums": self._sums,
            "count": self._count,
        }
        atomic_save(lambda target: torch.save(content, target), self.path)

    def load(
        self, model: nn.Module, optimizer: Any, average: _Average, accelerator: Accelerator
    ) -> None:
        if not self.path.exists():
            return
        content = torch.load(self.path, map_location=accelerator.device, weights_only=True)
        if content["key"] not in self.keys:
            raise InputError(
                self.path,
                "key",
                "this checkpoint was made with another configuration, model or dataset; "
                "delete its folder, or choose another one, to train anew",
            )
        _put(model, content["model"], self.path)
        optimizer.load_state_dict(content["optimizer"])
        average.shadow = content["average"]
        if accelerator.scaler and content["scaler"]:
            accelerator.scaler.load_state_dict(content["scaler"])
        self.step, self.metrics, self.best = content["step"], content["metrics"], content["best"]
        self.history, self._sums, self._count = (
            content["history"],
            content["sums"],
            content["count"],
        )
        log.info("%s: continuing at step %d", self.path, self.step)


class _Stream:
    """This process's share of an endless, seeded, epoch-wise shuffled sequence of batches."""

    def __init__(self, length: int, config: TrainConfig, rank: int, world: int, first: int) -> None:
        self.length, self.config, self.rank, self.world = length, config, rank, world
        self.position = first * config.batch_size

    def __iter__(self) -> Iterator[Sequence[int]]:
        share = self.config.batch_size // (self.world * self.config.accumulation)
        epoch, order = -1, torch.empty(0)
        position = self.position
        while True:
            chosen = []
            for offset in range(share * self.world):
                now, index = divmod(position + offset, self.length)
                if now != epoch:
                    epoch = now
                    order = torch.randperm(
                        self.length, generator=generator(self.config.seed, "epoch", now)
                    )
                if offset % self.world == self.rank:
                    chosen.append(int(order[index]))
            position += share * self.world
            yield chosen


def _batches(
    dataset: Dataset[Any],
    config: TrainConfig,
    collate: Callable[[list[Any]], Any] | None,
    accelerator: Accelerator,
    first: int,
) -> Iterator[Any]:
    length = len(cast(Sized, dataset))
    if not length:
        raise InputError("training", "dataset", "it holds no sample that can be used")
    stream = _Stream(length, config, accelerator.process_index, accelerator.num_processes, first)
    loader = DataLoader(
        dataset,
        batch_sampler=cast(Any, stream),
        collate_fn=collate,
        num_workers=config.num_workers,
        persistent_workers=config.num_workers > 0,
    )
    return iter(loader)


def _evaluated(
    evaluate: Callable[[nn.Module], dict[str, float]], model: nn.Module, average: _Average
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


def _put(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    wanted = set(trainable_state(model))
    if wanted != set(weights):
        odd = sorted(wanted ^ set(weights))
        raise InputError(
            path, "weights", f"{len(odd)} names differ from the model's, as {odd[0]!r}"
        )
    model.load_state_dict(weights, strict=False)


def _keys(config: TrainConfig, key: str, monitor: str | None) -> tuple[str, ...]:
    """What a checkpoint of this training may be marked with; the first is what it is marked with.

    How often it is evaluated moves no trained weight. With a monitor it decides which weights are
    kept as the best, so there it counts. Without one it counts as 0, but checkpoints from when it
    always counted are accepted under the value they were made with.
    """
    counted = config if monitor else config.model_copy(update={"evaluate_every": 0})
    return tuple(dict.fromkeys((_key(counted, key), _key(config, key))))


def _key(config: TrainConfig, key: str) -> str:
    content = config.model_dump(mode="json", exclude=NOT_IN_KEY)
    return hashlib.sha256(json.dumps([content, key], sort_keys=True).encode()).hexdigest()[:16]
