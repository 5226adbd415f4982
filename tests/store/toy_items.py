"""Toy items of two files each; run as a script, it fills a store with them."""

from __future__ import annotations

import sys
from functools import partial
from pathlib import Path

from doomed import wait_for_the_end

from diffground.errors import InputError
from diffground.io.files import write_whole
from diffground.store.config import WorkConfig
from diffground.store.items import Item, Summary, fill

IDS = [f"item_{number:03d}" for number in range(60)]
BROKEN = "item_017"
RECIPE = {"base": 7}


def items(ids=IDS, of=None, sources=None) -> list[Item]:
    """``sources`` is a folder with a file for each item."""
    return [
        Item(
            item,
            (f"low/{item}.txt", f"high/{item}.txt"),
            of,
            {"source": sources / item} if sources else {},
        )
        for item in ids
    ]


def make(item: str) -> int:
    """The work of an item; one is broken."""
    if item == BROKEN:
        raise InputError(f"{item}.jpg", "pixels", "the image is cut short or corrupt")
    return int(item.rpartition("_")[2])


def finish(folder: Path, item: str, work: int) -> dict[str, int]:
    for name, power in (("low", 1), ("high", 50)):
        text = str((7 + work) ** power)
        write_whole(folder / name / f"{item}.txt", lambda part, text=text: part.write_text(text))
    return {"number": work}


def refused(folder: Path, item: str, work: int) -> None:
    raise InputError(folder, "setting", f"it cannot be, says {item}")


def run(folder, ids=IDS, make=make, work=None, recipe=RECIPE, finish=finish, **asked) -> Summary:
    made = items(ids, **asked)
    return fill(folder, recipe, made, make, partial(finish, folder), what="toys", work=work)


def doomed(last: int, item: str) -> int:
    """As :func:`make`, up to an item at which it waits to be killed."""
    if int(item.rpartition("_")[2]) >= last:
        wait_for_the_end()
    return make(item)


if __name__ == "__main__":
    last, workers = int(sys.argv[2]), int(sys.argv[3])
    run(Path(sys.argv[1]), make=partial(doomed, last), work=WorkConfig(workers=workers))
