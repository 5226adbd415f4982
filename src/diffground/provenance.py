"""Which code made a kept result: code versions in its key, and the commit that is noted with it.

A module whose results are kept has a number beside its code, and the key of whatever it fills has
that number, beside the settings, the data and the model::

    CODE_VERSION: Final = 1  # raise it when the same settings give other results
    key = {..., "code": code_of(eipa, mlma)}

So a result of other code is not found but made again, and :func:`say_why` says which number it was.
The commit and the day are in no key: they are noted with what was made (:class:`Made`), and are
printed beside its numbers.

The mini models are outside of this: they are shipped, and trained again only when somebody says so.
"""

from __future__ import annotations

import json
import logging
import os
import platform
import subprocess
from collections.abc import Iterable, Mapping
from datetime import UTC, datetime
from functools import lru_cache
from importlib.metadata import version
from pathlib import Path
from types import ModuleType
from typing import Any, NamedTuple, Self

from diffground.config import Config
from diffground.io.files import read_json, write_json

log = logging.getLogger(__name__)

CODE = "code"  # where the numbers stand in a recipe, at any depth
RECIPE = "recipe.json"  # in a folder that is named by a key: what the key was made of

Recipe = Mapping[str, Any]


def code_of(*modules: ModuleType) -> dict[str, int]:
    """The code versions of modules by their names, as a recipe has them under ``"code"``."""
    names = [module.__name__.rpartition(".")[2] for module in modules]
    assert len({*names}) == len(names), names
    return {name: module.CODE_VERSION for name, module in zip(names, modules, strict=True)}


class Made(Config):
    """By which commit something was made, and when; empty where nobody noted it."""

    commit: str = ""  # see `commit`; of several things "first, second"
    date: str = ""  # 2026-01-31, of several things the last

    @classmethod
    def now(cls, by: str | None = None) -> Self:
        """Finished today, by the code that runs; ``by`` names the commits if it had others too."""
        day = datetime.now(UTC).date().isoformat()
        return cls(commit=commit() if by is None else by, date=day)

    @classmethod
    def of(cls, content: Recipe) -> Self:
        """What kept JSON says of itself."""
        return cls(commit=content.get("commit", ""), date=content.get("date", ""))

    @classmethod
    def joined(cls, parts: Iterable[Made]) -> Self:
        """Of a result that was made of several: each commit once, in order, and the last day."""
        known = list(parts)
        return cls(
            commit=join_commits(part.commit for part in known),
            date=max((part.date for part in known), default=""),
        )


def join_commits(commits: Iterable[str]) -> str:
    """Each once, in the order in which they first appear."""
    single = (one for several in commits for one in several.split(", ") if one)
    return ", ".join(dict.fromkeys(single))


@lru_cache
def commit() -> str:
    """The commit of the code that runs, asked once; with ``+`` where the checkout had changes.

    Of an installed package, which is in no checkout, its version.
    """
    here = Path(__file__)
    found = checkout(here.parent)
    # An environment may lie inside of somebody else's checkout, which does not track it.
    if found is None or _git(here.parent, "ls-files", "--error-unmatch", here.name) is None:
        return f"diffground {version('diffground')}"
    return found.commit + ("+" if found.changed else "")


def hardware() -> str:
    """What runs the code: the accelerator's name, or the processor's architecture."""
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name(0)} x{torch.cuda.device_count()}"
    if torch.backends.mps.is_available():
        return "mps"
    return f"cpu: {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


class Checkout(NamedTuple):
    """The state of a checkout."""

    commit: str
    changed: bool  # whether it had changes that are in no commit


def checkout(folder: Path) -> Checkout | None:
    """The checkout that a folder is in; None where there is no git, no checkout or no commit."""
    head, changes = _git(folder, "rev-parse", "HEAD"), _git(folder, "status", "--porcelain")
    return None if head is None or changes is None else Checkout(head, bool(changes))


def code_change(before: Recipe, now: Recipe) -> str:
    """What sets two recipes apart that differ in code versions only: ``eipa 1 → 2``; else ""."""
    (old, old_code), (new, new_code) = _parted(before), _parted(now)
    if old != new:
        return ""
    return ", ".join(
        f"{name} {old_code.get(name, 'none')} → {new_code.get(name, 'none')}"
        for name in sorted(old_code | new_code)
        if old_code.get(name) != new_code.get(name)
    )


def claim(folder: Path, recipe: Recipe) -> None:
    """Notes in ``folder``, which is about to be filled, what it is made of.

    If it, or else one of the folders beside it, was made by the same recipe but for the code, the
    log says so. Nothing happens in a folder of this very recipe.
    """
    path = folder / RECIPE
    before = read_json(path)
    if before == plain(recipe):
        return
    say_why(folder, recipe, folder.parent.glob(f"*/{RECIPE}") if before is None else [path])
    write_json(path, recipe)


def say_why(what: Path, recipe: Recipe, kept: Iterable[Path], field: str | None = None) -> None:
    """Logs one line if a kept recipe differs from ``recipe`` in code versions only.

    Args:
        what: is about to be made.
        kept: JSON files that hold recipes; the newest that differs so is named.
        field: under which the recipe stands in them; None: it is the file's whole content.
    """
    for path in sorted(kept, key=lambda path: path.stat().st_mtime_ns, reverse=True):
        content = read_json(path) or {}
        if change := code_change(content if field is None else content.get(field, {}), recipe):
            log.warning("%s is made again, as the code is another one: %s", what, change)
            return


def _parted(recipe: Recipe) -> tuple[Any, dict[str, int]]:
    """A recipe without its code versions, and these, at whatever depth they stand."""
    code: dict[str, int] = {}

    def without(part: Any) -> Any:
        if not isinstance(part, dict):
            return part
        code.update(part.get(CODE, {}))
        return {name: without(value) for name, value in part.items() if name != CODE}

    return without(plain(recipe)), code


def plain(recipe: Recipe) -> dict[str, Any]:
    """As it is read back: tuples are lists."""
    content: dict[str, Any] = json.loads(json.dumps(recipe))
    return content


def _git(folder: Path, *args: str) -> str | None:
    """What git says, or None where it says nothing but an error."""
    command = ["git", "-C", str(folder), *args]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None
