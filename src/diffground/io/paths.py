"""Paths that data files name, kept within the data's own folder, and names made of texts."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath

from diffground.errors import InputError


def inside(base: Path, name: str, file: str | Path, field: str) -> Path:
    """``base / name``, refused where it would lead out of ``base``, or to a hidden file.

    What is read is written into results, and results are named after it: a name in a list must
    reach no other file, and what is made of it must not be hidden from the manifests.

    Args:
        base: the folder that ``name`` counts from.
        name: a relative path with forward slashes.
        file, field: where it stands, for the message.

    Raises:
        InputError: ``name`` is empty, absolute, has a part that begins with a dot, or a character
            that no name of a file can have.
    """
    path = PurePosixPath(name)
    if path.is_absolute() or not path.parts or any(part.startswith(".") for part in path.parts):
        reason = f"{name[:80]!r} is no path within the dataset, or a hidden one"
        raise InputError(file, field, reason)
    if any(ord(character) < 32 for character in name):  # noqa: PLR2004
        raise InputError(file, field, f"{name[:80]!r} is no name of a file")
    return base / path


def is_file(path: Path) -> bool:
    """Whether there is such a file; InputError where the system would not say."""
    try:
        return path.is_file()
    except OSError as error:
        raise InputError.denied(path, error) from error


def slug(text: str) -> str:
    """A text as a part of a file name: lower case letters, digits and underscores, at most 40."""
    return re.sub(r"\W+", "_", text.lower()).strip("_")[:40] or "phrase"
