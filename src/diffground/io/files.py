"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import uuid
from collections.abc import Callable
from pathlib import Path


def write_whole(path: str | Path, write: Callable[[Path], object]) -> Path:
    """Calls ``write`` with a hidden sibling of ``path``, renames the result, returns the path.

    Folders are made, and a failed ``write`` leaves nothing behind. (Checkpoints, which must also
    outlive a power cut, are written by :func:`diffground.training.loop.atomic_save`.)
    """
    path = Path(path)
    path.parent.mkdir(parents=True, exist_ok=True)
    part = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.part")
    try:
        write(part)
        part.replace(path)
    except BaseException:
        part.unlink(missing_ok=True)
        raise
    return path
