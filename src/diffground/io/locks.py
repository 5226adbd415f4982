"""Locks between processes that know who holds them."""

from __future__ import annotations

import contextlib
import getpass
import os
import platform
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from filelock import FileLock, Timeout

from diffground.errors import InputError
from diffground.io.files import read_json, write_json


@contextmanager
def held(path: str | Path, what: str, *, wait: bool = True, seconds: float = -1) -> Iterator[None]:
    """Holds the lock file ``path`` while the block runs; the system frees it if the process dies.

    Args:
        path: a file of its own, made if it is missing, left when the lock is given back. Beside it
            lies ``<name>.holder``, which says who holds it.
        what: what the lock is for, for the message: "this training".
        wait: False gives up at once if another process holds it.
        seconds: how long to wait; -1 without end.

    Raises:
        InputError: another process holds it; the message says which one, since when and what to do.
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    lock = FileLock(path)
    note = path.with_name(path.name + ".holder")
    try:
        lock.acquire(timeout=seconds if wait else 0)
    except Timeout as error:
        reason = f"{what} is in the hands of {_who(note)}; wait for it to end, or end it"
        raise InputError(path, "lock", reason) from error
    try:
        with contextlib.suppress(InputError, OSError):  # a note for people; the lock holds without
            write_json(note, _me())
        yield
    finally:
        note.unlink(missing_ok=True)
        lock.release()


def holder(path: str | Path) -> str:
    """Who holds the lock file ``path``, in words for a message."""
    path = Path(path)
    return _who(path.with_name(path.name + ".holder"))


def _me() -> dict[str, Any]:
    try:
        user = getpass.getuser()
    except (KeyError, OSError):
        user = "?"
    return {
        "pid": os.getpid(),
        "host": platform.node(),
        "user": user,
        "since": time.strftime("%Y-%m-%d %H:%M:%S"),
        "command": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
    }


def _who(note: Path) -> str:
    who = read_json(note)
    if who is None:
        return "another process"
    return (
        f"process {who.get('pid')} on {who.get('host')} (`{who.get('command')}`, "
        f"since {who.get('since')})"
    )
