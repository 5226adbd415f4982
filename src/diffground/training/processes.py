"""The processes of one run: alone, or several started by ``torchrun`` or ``accelerate launch``."""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from contextvars import ContextVar
from dataclasses import dataclass
from datetime import timedelta
from functools import cache
from pathlib import Path
from typing import Any, Final, Protocol, TypeVar

import torch
from accelerate import PartialState
from accelerate.utils import broadcast_object_list, gather_object, parse_flag_from_env

from diffground.errors import InputError
from diffground.io.locks import held, holder

log = logging.getLogger(__name__)

Value = TypeVar("Value")

# For each other: one may have hours of work left of its part of a store when another has none. That
# a process died is noticed at once, by the launcher, which ends the others.
_WAIT: Final = timedelta(hours=12)


class Processes(Protocol):
    """What is to be known of the processes of a run."""

    @property
    def num_processes(self) -> int:
        """How many there are."""

    @property
    def process_index(self) -> int:
        """Which one this is, from 0."""

    @property
    def is_main_process(self) -> bool:
        """Whether it is the first, which writes and logs."""

    @property
    def device(self) -> torch.device:
        """This one's own."""

    def wait_for_everyone(self) -> None:
        """Returns once all processes are here."""


@dataclass(frozen=True)
class _Single:
    """A process by itself."""

    device: torch.device
    num_processes: int = 1
    process_index: int = 0
    is_main_process: bool = True

    def wait_for_everyone(self) -> None:
        """There is nobody to wait for."""


_ALONE: ContextVar[bool] = ContextVar("alone", default=False)


def processes() -> Processes:
    """This run's processes, as everything here sees them: Accelerate's, or one :func:`alone`.

    Ask here and not Accelerate: of ``PartialState`` only the first call in a process counts, and
    without an accelerator it takes each of several processes for a run of its own, which would all
    train the whole and write the same files.

    Raises:
        InputError: the launcher started more processes than take part.
    """
    launched = int(os.environ.get("WORLD_SIZE", "1"))
    more = {"timeout": _WAIT} if launched > 1 else {}
    on_cpu = parse_flag_from_env("ACCELERATE_USE_CPU")
    on_cpu = on_cpu or (launched > 1 and not torch.accelerator.is_available())
    state = PartialState(cpu=on_cpu, **more)
    if state.num_processes != launched:
        raise InputError(
            "environment",
            "WORLD_SIZE",
            f"{launched} processes were started, {state.num_processes} take part in this run: "
            "PartialState or Accelerator was made before, or the devices cannot be used together "
            "(ACCELERATE_USE_CPU=true takes the processor)",
        )
    if state.num_processes > 1:
        _leave_at_the_end()
    if _ALONE.get():
        return _Single(state.device)
    found: Processes = state
    return found


@contextmanager
def alone() -> Iterator[None]:
    """Within the block this process is a run of its own, whoever else was started with it.

    For work of which each process has its own: what it trains is shared with nobody.
    """
    token = _ALONE.set(True)
    try:
        yield
    finally:
        _ALONE.reset(token)


def gathered(value: Value) -> list[Value]:
    """What each process gave, in their order; all wait for the last."""
    if processes().num_processes == 1:
        return [value]
    found: list[Any] = gather_object([value])
    return found


@cache
def _leave_at_the_end() -> None:
    """Lets this process leave its group before Python ends.

    The group has threads of its own; where they outlive the interpreter the process is aborted now
    and then, after all work is done, and the launcher calls the whole run failed.
    """
    from torch import distributed

    def leave() -> None:
        if distributed.is_initialized():
            distributed.destroy_process_group()

    atexit.register(leave)


@contextmanager
def only_training(folder: Path) -> Iterator[None]:
    """Keeps every other run from training in ``folder`` while the block runs.

    A second run waits, and says for whom. Several processes of a launcher are one run: the first
    holds the lock for all. They do not wait, as they would end each other by a time-out.

    Raises:
        InputError: another run trains there, and this one has several processes.
    """
    state = processes()
    lock = folder.with_name(f".{folder.name}.lock")
    refused: list[tuple[str, str, str] | None] = [None]
    with ExitStack() as stack:
        if state.is_main_process:
            try:
                stack.enter_context(held(lock, "this training", wait=False))
            except InputError as error:
                if error.field != "lock":
                    raise
                if state.num_processes == 1:
                    log.warning("%s is being trained by %s: waiting", folder.name, holder(lock))
                    stack.enter_context(held(lock, "this training"))
                else:
                    refused = [(error.file, error.field, error.reason)]
        if state.num_processes > 1:
            broadcast_object_list(refused)
        if refused[0] is not None:
            raise InputError(*refused[0])
        yield


def chosen_device(device: str) -> str:
    """``device``, but for ``"auto"`` this process's own: the GPU if there is one."""
    return str(processes().device) if device == "auto" else device


def check_device(device: str, field: str) -> None:
    """Passes a device that this machine has, and ``"auto"``.

    Raises:
        InputError: it has none of that name; the message lists those it has.
    """
    kind, _, index = device.partition(":")
    if kind in ("auto", "cpu"):
        return
    known = torch.accelerator.current_accelerator()
    count = torch.accelerator.device_count()
    if known is not None and known.type == kind and int(index or 0) < count:
        return
    there = ["cpu", *(f"{known.type}:{i}" for i in range(count) if known is not None)]
    reason = f"this machine has no {device}; it has {', '.join(there)}, and `auto` chooses"
    raise InputError("parameters", field, reason)
