"""What a training leaves on disk: its last two checkpoints, and the best weights.

Files are written whole and durable, and sealed (:mod:`diffground.io.files`). A checkpoint that was
damaged since is named, and the one before it takes its place.
"""

from __future__ import annotations

import logging
import os
import pickle
import shutil
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any, cast

import torch
from accelerate import Accelerator
from safetensors import SafetensorError
from safetensors.torch import load_file, save_file
from torch import Tensor, nn

from diffground.errors import InputError
from diffground.io.files import check_seal, is_sound, write_whole

log = logging.getLogger(__name__)

LAST, BEFORE, BEST = "last.pt", "before.pt", "best.safetensors"


def trainable_state(model: nn.Module) -> dict[str, Tensor]:
    """The trained parameters of ``model``, and the buffers beside them, copied to the CPU.

    A part without any parameter, such as a norm that only has running statistics, belongs to the
    part that it is in.
    """
    state = {name: p for name, p in model.named_parameters() if p.requires_grad}
    for prefix, module in model.named_modules():
        if _is_trained(model, prefix):
            lost = module._non_persistent_buffers_set
            for name, buffer in module.named_buffers(recurse=False):
                if name not in lost:
                    state[f"{prefix}.{name}" if prefix else name] = cast(Any, buffer)
    return {name: tensor.detach().cpu().clone().contiguous() for name, tensor in state.items()}


def _is_trained(model: nn.Module, name: str) -> bool:
    """Whether buffers of the submodule ``name`` change in training."""
    module = model.get_submodule(name)
    own = [*module.parameters(recurse=False)]
    while not own and name and next(module.parameters(), None) is None:
        name = name.rpartition(".")[0]
        module = model.get_submodule(name)
        own = [*module.parameters()]
    return any(parameter.requires_grad for parameter in own)


def save_weights(weights: dict[str, Tensor], path: Path) -> Path:
    """Writes safetensors, sealed."""
    return write_whole(path, lambda part: save_file(weights, part), durable=True, sealed=True)


def load_weights(path: Path, remedy: str) -> dict[str, Tensor]:
    """What :func:`save_weights` wrote.

    Raises:
        InputError: the file is missing or damaged; ``remedy`` says what to do about it.
    """
    if not path.exists():
        raise InputError(path, "file", f"it is missing; {remedy}")
    check_seal(path, remedy)
    try:
        return load_file(path)
    except (SafetensorError, OSError) as error:
        raise InputError(path, "file", f"it cannot be read ({error}); {remedy}") from error


def put_weights(model: nn.Module, weights: dict[str, Tensor], path: Path) -> None:
    """Puts a :func:`trainable_state` that came from ``path`` into ``model``.

    Raises:
        InputError: the names or shapes are not those of the model's trained parameters.
    """
    wanted = trainable_state(model)
    odd = sorted(wanted.keys() ^ weights.keys())
    if odd:
        reason = f"{len(odd)} names differ from the model's, as {odd[0]!r}"
        raise InputError(path, "weights", reason)
    try:
        model.load_state_dict(weights, strict=False)
    except RuntimeError as error:
        raise InputError(path, "weights", str(error)) from error


class Average:
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
        """Takes the weights after ``step`` in."""
        if self.decay:
            decay = min(self.decay, (1 + step) / (10 + step))
            for name, parameter in model.named_parameters():
                if name in self.shadow:
                    self.shadow[name].lerp_(parameter.detach(), 1.0 - decay)

    @torch.no_grad()
    def copy_to(self, model: nn.Module) -> None:
        """Puts the averages in the parameters' place."""
        for name, parameter in model.named_parameters():
            if name in self.shadow:
                parameter.copy_(self.shadow[name])


@dataclass
class Record:
    """What changes from step to step besides weights, and the sums between two rows of history."""

    step: int = 0
    metrics: dict[str, float] = field(default_factory=dict)
    best: dict[str, float] = field(default_factory=dict)
    history: list[dict[str, float]] = field(default_factory=list)
    evaluations: list[dict[str, float]] = field(default_factory=list)
    sums: dict[str, float] = field(default_factory=dict)
    count: int = 0
    commit: str = ""  # by which code the steps were taken

    def note(self, losses: dict[str, float]) -> None:
        """Takes a step's losses in."""
        self.count += 1
        for name, value in losses.items():
            self.sums[name] = self.sums.get(name, 0.0) + value

    def flush(self, learning_rate: float) -> dict[str, float]:
        """A new row of the history: the means since the last one."""
        row = {name: value / self.count for name, value in self.sums.items()}
        row |= {"lr": learning_rate, "step": float(self.step)}
        self.sums, self.count = {}, 0
        self.history.append(row)
        return row


@dataclass
class Checkpoint:
    """A training's state in memory, and in its folder's files."""

    folder: Path
    key: str
    model: nn.Module
    optimizer: Any
    average: Average
    accelerator: Accelerator
    record: Record = field(default_factory=Record)

    def keep_best(self, monitor: str, *, write: bool) -> None:
        """Notes the last evaluation if it is the best yet, and writes the weights that count."""
        found, best = self.record.metrics, self.record.best
        if best and found[monitor] <= best[monitor]:
            return
        self.record.best = {**found, "step": float(self.record.step)}
        if not write:
            return
        weights = trainable_state(self.model)
        weights |= {name: tensor.detach().cpu() for name, tensor in self.average.shadow.items()}
        save_weights(weights, self.folder / BEST)

    def save(self) -> None:
        """Writes ``last.pt``; the one that was there becomes ``before.pt``, unless damaged."""
        content = {
            "key": self.key,
            "model": trainable_state(self.model),
            "optimizer": self.optimizer.state_dict(),
            "average": self.average.shadow,
            "scaler": self.accelerator.scaler.state_dict() if self.accelerator.scaler else None,
            "record": vars(self.record),
        }
        last = self.folder / LAST
        if last.exists() and is_sound(last) is not False:
            write_whole(self.folder / BEFORE, lambda part: _second_name(last, part), sealed=True)
        write_whole(last, lambda part: torch.save(content, part), durable=True, sealed=True)

    def load(self) -> None:
        """Goes on from ``last.pt``, or from the one before if it is damaged; from neither, anew.

        Raises:
            InputError: the checkpoint is of another training, or all that are there are damaged.
        """
        read = self._read()
        if read is None:
            return
        path, content = read
        if content["key"] != self.key:
            reason = (
                "this checkpoint was made with another configuration, model or dataset; "
                "delete its folder, or choose another one, to train anew"
            )
            raise InputError(path, "key", reason)
        put_weights(self.model, content["model"], path)
        self.optimizer.load_state_dict(content["optimizer"])
        device = self.accelerator.device
        self.average.shadow = {n: value.to(device) for n, value in content["average"].items()}
        if self.accelerator.scaler and content["scaler"]:
            self.accelerator.scaler.load_state_dict(content["scaler"])
        self.record = Record(**content["record"])
        log.info("%s: continuing at step %d", path, self.record.step)

    def _read(self) -> tuple[Path, dict[str, Any]] | None:
        """The newest checkpoint that is whole; None without any."""
        damaged: list[Path] = []
        for path in (self.folder / LAST, self.folder / BEFORE):
            if not path.exists():
                continue
            sound = is_sound(path)  # outside of what follows: a file that is denied is not damaged
            try:
                if sound is False:
                    raise ValueError("its bytes are not those that were written")
                # Not onto the device, which torch knows not by the name that a processor of
                # several processes has.
                content = torch.load(path, map_location="cpu", weights_only=True)
                if content["key"] == self.key:  # else it is refused, whatever is in it
                    Record(**content["record"])
            except torch.OutOfMemoryError:
                raise
            except _DAMAGE as error:
                damaged.append(path)
                log.warning("%s is damaged and not used: %s", path, error)
            else:
                return path, content
        if damaged:
            reason = "damaged, and there is no whole checkpoint before it; delete it to train anew"
            raise InputError(damaged[-1], "file", reason)
        return None


# What reading a cut or changed file raises: the seal's, the archive's or the unpickler's complaint.
_DAMAGE = (ValueError, OSError, RuntimeError, pickle.UnpicklingError, EOFError, KeyError, TypeError)


def _second_name(path: Path, part: Path) -> None:
    """Gives the file another name; a copy where the file system has no links."""
    try:
        os.link(path, part)
    except OSError:
        shutil.copyfile(path, part)
