"""What a store notes of its items, a line of JSON each: which files they have, and made of what."""

from __future__ import annotations

import hashlib
import json
from collections.abc import Iterable
from dataclasses import asdict
from functools import lru_cache
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from diffground.config import Config
from diffground.errors import Problem
from diffground.io.files import write_whole
from diffground.io.notes import FileNote, digest_of
from diffground.io.paths import inside

REPORTS = "shard-*-of-*.jsonl"
SUM = "sum"  # in a line: of all else that it says

About = dict[str, Any]  # JSON-ready: what is to be said about an item


class Note(Config):
    """What is known of an item that was made."""

    item: str
    key: str  # hash of the recipe and of `Item.of`
    files: dict[str, str]  # name -> hash of its bytes
    sources: dict[str, FileNote | None]  # as they were before they were read; None: not readable
    commit: str
    about: About = Field(default_factory=dict)

    @field_validator("files")
    @classmethod
    def _are_of_the_store(cls, files: dict[str, str]) -> dict[str, str]:
        """A report may be somebody else's: it names no files elsewhere."""
        for name in files:
            inside(Path(), name, "report", "files")
        return files


def read_notes(folder: Path) -> dict[str, Note]:
    """The notes of the items that were asked for last, by id; of a whole store, all that it has."""
    return notes_in(sorted(folder.glob(REPORTS)))


def is_intact(folder: Path, note: Note) -> bool:
    """Whether an item's files are those that were written. Each state of one is read only once."""
    for name, digest in note.files.items():
        path = folder / name
        try:
            about = path.stat()
            if _digest(path, about.st_size, about.st_mtime_ns) != digest:
                return False
        except OSError:
            return False
    return True


def line_of(entry: Note | Problem) -> str:
    """What is said of one item: that it was made, or why not; with a checksum of the rest."""
    content = entry.model_dump(mode="json") if isinstance(entry, Note) else asdict(entry)
    return json.dumps({**content, SUM: _sum(content)}) + "\n"


def write_report(path: Path, entries: Iterable[Note | Problem], asked: str | None = None) -> None:
    """A line each, and a last one if all is said of the items that ``asked`` is a hash of."""

    def write(part: Path) -> None:
        with part.open("w", encoding="utf-8") as file:
            file.writelines(map(line_of, entries))
            if asked is not None:
                file.write(json.dumps({"finished": asked}) + "\n")

    write_whole(path, write, durable=True)


def read_report(path: Path) -> tuple[list[Note | Problem], str | None]:
    """The lines of a report but the last, and the last, if there is one.

    Lines that are damaged, or cut where a run was killed, are left out.
    """
    entries: list[Note | Problem] = []
    asked = None
    if not path.exists():
        return entries, asked
    with path.open(encoding="utf-8", errors="replace") as lines:
        for line in lines:
            try:
                content = json.loads(line)
                if content.pop(SUM, None) not in (None, _sum(content)):
                    continue  # those without one are older
                if "finished" in content:
                    asked = content["finished"]
                else:
                    entries.append(Note(**content) if "key" in content else Problem(**content))
            except (ValueError, TypeError, AttributeError, RecursionError):
                continue
    return entries, asked


def _sum(content: dict[str, Any]) -> str:
    """16 hexadecimal digits of what a line says."""
    text = json.dumps(content, sort_keys=True)
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()


def notes_in(paths: Iterable[Path]) -> dict[str, Note]:
    """Of reports; a later one has the last word."""
    entries = (entry for path in paths for entry in read_report(path)[0])
    return {entry.item: entry for entry in entries if isinstance(entry, Note)}


# Every row of a table looks at the same store again: the masks of COCO fit into it.
@lru_cache(maxsize=1 << 18)
def _digest(path: Path, size: int, changed: int) -> str:
    """Of a file of ``size`` bytes that was changed last at ``changed``: they may be gigabytes."""
    return digest_of(path)
