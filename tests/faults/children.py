"""Processes that run a job, forked from one that has imported everything, and how they end."""

from __future__ import annotations

import dataclasses
import json
import logging
import os
import resource
import signal
import sys
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Self

import psutil

from diffground.errors import InputError
from diffground.failures import message

LONGEST = 3600.0  # seconds after which a child hangs


@dataclasses.dataclass(frozen=True)
class Ending:
    """How a child ended.

    Attributes:
        code: 0 done, 1 an exception, -9 killed.
        named: the exception was one for users, with ``file`` and ``field``.
    """

    code: int
    named: bool = False
    error: str = ""
    file: str = ""
    field: str = ""
    seconds: float = dataclasses.field(default=0.0, compare=False)  # of the processor

    @classmethod
    def of(cls, error: BaseException) -> Self:
        """What a user is told of an exception, by the rules of the command line."""
        text, cause = message(error), error.__cause__
        told = next((one for one in (error, cause) if isinstance(one, InputError)), None)
        if text is None:
            frame = traceback.extract_tb(error.__traceback__)[-1]
            place = f"{Path(frame.filename).name}:{frame.lineno}"
            return cls(1, error=f"{type(error).__name__}: {error} ({place})")
        return cls(1, True, text, *((told.file, told.field) if told else ()))


class Child:
    """A fork that does ``work``; what it logs and how it ends lies beside ``note``.

    Args:
        largest: bytes that a file may have: at more the system refuses, as at a full disk. What it
            logs is lost then.
    """

    def __init__(
        self, work: Callable[[], object], note: Path, *, largest: int | None = None
    ) -> None:
        self.note = note
        note.unlink(missing_ok=True)
        sys.stdout.flush()
        self.pid = os.fork()
        if not self.pid:
            try:
                self._work(work, largest)
            finally:
                os._exit(1)
        self._process = psutil.Process(self.pid)

    def seconds(self) -> float:
        """Of the processor, so far; -1 once it ended."""
        try:
            if self._process.status() == psutil.STATUS_ZOMBIE:
                return -1.0
            used = self._process.cpu_times()
        except psutil.NoSuchProcess:
            return -1.0
        return used.user + used.system

    def kill_after(self, seconds: float) -> bool:
        """Kills it with signal 9 when it has used so much of the processor; False: it ended."""
        while 0 <= (used := self.seconds()) < seconds:
            time.sleep(0.003)
        if used < 0:
            return False
        os.kill(self.pid, signal.SIGKILL)
        return True

    def wait(self) -> Ending:
        """Its end."""
        deadline = time.monotonic() + LONGEST
        while (found := os.wait4(self.pid, os.WNOHANG))[0] == 0:
            if time.monotonic() > deadline:
                os.kill(self.pid, signal.SIGKILL)
                os.wait4(self.pid, 0)
                return Ending(1, error=f"it hung: no end in {LONGEST:.0f} s")
            time.sleep(0.01)
        _, status, used = found
        seconds = used.ru_utime + used.ru_stime
        code = os.waitstatus_to_exitcode(status)
        if code in (0, -signal.SIGKILL):
            return Ending(code, seconds=seconds)
        if not self.note.exists():
            return Ending(code, error=f"it ended with {code} and said nothing", seconds=seconds)
        return Ending(**{**json.loads(self.note.read_text("utf-8")), "seconds": seconds})

    def _work(self, work: Callable[[], object], largest: int | None) -> None:
        signal.signal(signal.SIGINT, signal.SIG_DFL)
        log = Path(os.devnull) if largest else self.note.with_suffix(".log")
        out = os.open(log, os.O_WRONLY | os.O_CREAT | os.O_APPEND, 0o666)
        os.dup2(out, 1)
        os.dup2(out, 2)
        logging.basicConfig(level=logging.INFO, stream=sys.__stderr__, force=True)
        unlimited = resource.RLIM_INFINITY
        ended = None
        try:
            if largest is not None:
                resource.setrlimit(resource.RLIMIT_FSIZE, (largest, unlimited))
            work()
        except BaseException as error:  # noqa: BLE001 - what it is, is the finding
            resource.setrlimit(resource.RLIMIT_FSIZE, (unlimited, unlimited))
            traceback.print_exc()
            ended = Ending.of(error)
            self.note.write_text(json.dumps(dataclasses.asdict(ended)), encoding="utf-8")
        os._exit(0 if ended is None else 1)
