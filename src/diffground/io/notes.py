"""Notes of the files that something was made from: is a file still the one it was?"""

from __future__ import annotations

import hashlib
import os
from pathlib import Path
from typing import NamedTuple


class FileNote(NamedTuple):
    """What a file was when it was read."""

    size: int  # bytes
    changed: int  # nanoseconds since 1970
    digest: str  # of its bytes, 16 hexadecimal digits


def note_of(path: Path) -> FileNote | None:
    """The note of a file; None if it cannot be read."""
    try:
        about = path.stat()
        return FileNote(about.st_size, about.st_mtime_ns, digest_of(path))
    except OSError:
        return None


def is_unchanged(path: Path, note: FileNote | None) -> bool:
    """Whether a file is still what its note says.

    Size and date are compared first; only where the date alone differs, as after a copy, are the
    bytes read. A file that is gone or cannot be looked at counts as unchanged: there is nothing
    newer to take in its place.
    """
    try:
        about = path.stat()
        if note is None or about.st_size != note.size:
            return False
        return about.st_mtime_ns == note.changed or digest_of(path) == note.digest
    except OSError:
        return True


def digest_of(path: Path) -> str:
    """16 hexadecimal digits of a file's bytes."""
    with path.open("rb") as stream:
        return hashlib.file_digest(stream, lambda: hashlib.blake2b(digest_size=8)).hexdigest()


def state_of(*folders: Path) -> str:
    """A hash of the names, sizes and dates of all files below folders; opens none."""
    digest = hashlib.blake2b(digest_size=8)
    for number, folder in enumerate(folders):
        for root, folders_below, names in os.walk(folder):
            folders_below.sort()
            for name in sorted(names):
                path = Path(root, name)
                try:
                    about = path.stat()
                except OSError:
                    continue
                place = os.path.relpath(path, folder)
                line = f"{number}\0{place}\0{about.st_size}\0{about.st_mtime_ns}\n"
                digest.update(line.encode("utf-8", "surrogateescape"))
    return digest.hexdigest()
