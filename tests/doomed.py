"""Processes that a test kills: each comes to a point and waits there, on slow and fast machines."""

from __future__ import annotations

import os
import time
from collections.abc import Callable
from typing import ParamSpec, TypeVar

P = ParamSpec("P")
R = TypeVar("R")
FORGOTTEN = 600.0  # seconds after which a process that nobody killed ends


def wait_for_the_end() -> None:
    """Waits to be killed."""
    time.sleep(FORGOTTEN)
    os._exit(1)


def stops_after(calls: int, function: Callable[P, R]) -> Callable[P, R]:
    """``function``, which answers ``calls`` times and then waits to be killed."""
    answered = 0

    def stopping(*args: P.args, **kwargs: P.kwargs) -> R:
        nonlocal answered
        if answered == calls:
            wait_for_the_end()
        answered += 1
        return function(*args, **kwargs)

    return stopping
