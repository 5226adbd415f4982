"""Files that take their name only when they are whole, and can be told from damaged ones."""

from __future__ import annotations

import errno
import hashlib
import json
import os
import uuid
from collections.abc import Callable
from pathlib import Path
from typing import Any

from diffground.errors import InputError

SEAL = ".sha256"  # what a file's seal is called: the file's name and this

_ADVICE = {
    errno.ENOSPC: "free some space, or name another folder, and start again",
    errno.EDQUOT: "the quota is used up: free some space, or name another folder",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "give yourself the right to write there, or name another folder",
    errno.EPERM: "give yourself the right to write there, or name another folder",
}


def write_whole(
    path: str | Path,
    write: Callable[[Path], object],
    *,
    durable: bool = False,
    sealed: bool = False,
) -> Path:
    """Calls ``write`` with a hidden sibling of ``path``, renames the result, returns the path.

    Folders are made, and a failed ``write`` leaves nothing behind. Two processes may write the same
    file at once: each has a sibling of its own, and the last one stays.

    Args:
        durable: the bytes are on the disk before the file takes its name, so that it also outlives
            a power cut. Costs a few milliseconds.
        sealed: the file's SHA-256 is kept beside it, see :func:`check_seal`.

    Raises:
        InputError: the system refused, say because the disk is full; it names the file, the cause
            and the remedy.
    """
    path = Path(path)
    part = path.with_name(f".{path.stem}-{uuid.uuid4().hex}.part")
    try:
        path.parent.mkdir(parents=True, exist_ok=True)
        write(part)
        if durable:
            with part.open("rb") as stream:
                os.fsync(stream.fileno())
        if sealed:
            _announce(path, sha256(part))
        part.replace(path)
    except OSError as error:
        advice = _ADVICE.get(error.errno or 0)
        if advice is None:
            raise
        raise InputError(path, "file", f"cannot be written ({error.strerror}); {advice}") from error
    except RuntimeError as error:  # torch and safetensors hide the system's error in one of these
        if "No space left" not in str(error) and "PytorchStreamWriter failed" not in str(error):
            raise
        reason = f"cannot be written ({error}); {_ADVICE[errno.ENOSPC]}"
        raise InputError(path, "file", reason) from error
    finally:
        part.unlink(missing_ok=True)
    return path


def sha256(path: str | Path) -> str:
    """The SHA-256 of a file's bytes, 64 hexadecimal digits."""
    with Path(path).open("rb") as stream:
        return hashlib.file_digest(stream, "sha256").hexdigest()


def seal_of(path: str | Path) -> Path:
    """Where the seal of a file lies: beside it, in the format of ``sha256sum``."""
    path = Path(path)
    return path.with_name(path.name + SEAL)


def is_sound(path: str | Path) -> bool | None:
    """Whether a file still holds the bytes it was written with; None if it has no seal to tell."""
    sealed = _sealed(path)
    return None if sealed is None else sha256(path) in sealed


def check_seal(path: str | Path, remedy: str) -> None:
    """Passes a file that is as it was written, or that has no seal.

    Raises:
        InputError: its bytes are others; ``remedy`` says what to do about it.
    """
    if is_sound(path) is False:
        raise InputError(path, "sha256", f"the file was damaged since it was written; {remedy}")


def write_json(path: str | Path, content: Any, *, sealed: bool = False) -> Path:
    """Writes JSON by :func:`write_whole`, to be read by people too."""
    text = json.dumps(content, indent=2) + "\n"
    return write_whole(path, lambda part: part.write_text(text, encoding="utf-8"), sealed=sealed)


def read_json(path: str | Path) -> dict[str, Any] | None:
    """An object that :func:`write_json` wrote; None if there is none that can be read."""
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    return content if isinstance(content, dict) else None


def _sealed(path: str | Path) -> set[str] | None:
    """The digests that a file's seal admits; None without a seal that can be read."""
    try:
        lines = seal_of(path).read_text("utf-8").splitlines()
    except (FileNotFoundError, UnicodeDecodeError):
        return None
    return {line.split(" ")[0] for line in lines}


def _announce(path: Path, digest: str) -> None:
    """Writes the seal of what is about to take the name ``path``.

    The seal comes first and admits the file that is there as well: whoever is killed between the
    two steps leaves an old file with a seal that fits it.
    """
    digests = [digest]
    if path.is_file():
        before, sealed = sha256(path), _sealed(path)
        digests += [before] if sealed is None or before in sealed else []
    text = "".join(f"{each}  {path.name}\n" for each in dict.fromkeys(digests))
    write_whole(seal_of(path), lambda part: part.write_text(text, encoding="utf-8"), durable=True)
