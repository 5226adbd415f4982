"""Paths that data files name, kept within the data's own folder, and names made of texts."""

from __future__ import annotations

import re
from pathlib import Path, PurePosixPath, PureWindowsPath
from typing import Final

from diffground.errors import InputError, shortened

LONGEST: Final = 255  # bytes of a file's name


def inside(base: Path, name: str, file: str | Path, field: str) -> Path:
    """``base / name``, refused where it would lead out of ``base``, or to a hidden file.

    What is read is written into results, and results are named after it: a name in a list must
    reach no other file, and what is made of it must not be hidden from the manifests.

    Args:
        base: the folder that ``name`` counts from.
        name: a relative path with forward slashes.
        file, field: where it stands, for the message.

    Raises:
        InputError: ``name`` is empty, absolute, has a part that begins with a dot or ends the path
            of a drive, be it read as on Windows; or is none that a file can have: it has a
            character of control or half of one, or a part of more than 255 bytes.
    """
    path, there = PurePosixPath(name), PureWindowsPath(name)
    hidden = any(part.startswith(".") for part in (*path.parts, *there.parts))
    if path.is_absolute() or there.anchor or not path.parts or hidden:
        reason = f"{shortened(name)} is no path within the dataset, or a hidden one"
        raise InputError(file, field, reason)
    if any(ord(character) < 32 for character in name) or not all(map(_is_name, path.parts)):  # noqa: PLR2004
        raise InputError(file, field, f"{shortened(name)} is no name of a file")
    return base / path


def _is_name(part: str) -> bool:
    """Whether a file can be called so."""
    try:
        return len(part.encode()) <= LONGEST
    except UnicodeEncodeError:  # JSON can spell halves of characters
        return False


def is_file(path: Path) -> bool:
    """Whether there is such a file; InputError where the system would not say."""
    try:
        return path.is_file()
    except OSError as error:
        raise InputError.denied(path, error) from error


def slug(text: str) -> str:
    """A text as a part of a file name: lower case letters, digits and underscores, at most 40."""
    return re.sub(r"\W+", "_", text.lower()).strip("_")[:40] or "phrase"
