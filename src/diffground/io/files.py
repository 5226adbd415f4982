"""Files that appear under their name only when they are whole."""

from __future__ import annotations

import json
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any


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


def write_json(path: str | Path, content: Any) -> Path:
    """Writes JSON by :func:`write_whole`, to be read by people too."""
    text = json.dumps(content, indent=2) + "\n"
    return write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_json(path: str | Path) -> dict[str, Any] | None:
    """An object that :func:`write_json` wrote; None if there is none that can be read."""
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (FileNotFoundError, ValueError):
        return None
    return content if isinstance(content, dict) else None
