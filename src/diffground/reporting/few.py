"""A few of many things, to be looked at or shown."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TypeVar

Thing = TypeVar("Thing")


def evenly(things: Sequence[Thing], count: int) -> list[Thing]:
    """So many of the things, spread evenly over them; all if there are no more."""
    count = min(count, len(things))
    return [things[number * len(things) // count] for number in range(count)]
