"""Files that take their name only when they are whole, and can be told from damaged ones."""

from __future__ import annotations

import contextlib
import errno
import hashlib
import json
import os
import re
import uuid
from collections.abc import Callable, Iterable
from functools import lru_cache
from pathlib import Path
from typing import Any, TypeVar

from pydantic import BaseModel, ValidationError
from safetensors import SafetensorError

from diffground.config import refused
from diffground.errors import InputError, WriteError, advice_on, shortened
from diffground.io.paths import inside

SEAL = ".sha256"  # what a file's seal is called: the file's name and this
# The checksums that travel with a folder of weights, as `sha256sum -c` reads them: folders that are
# copied, checked out or unpacked have no note of their own to be compared with.
SUMS = "SHA256SUMS"
WEIGHTS = "*.safetensors"
DIGITS = 18  # of an id: more than any has, and fewer than Python refuses to read
Kind = TypeVar("Kind", bound=BaseModel)
LIMIT = 1 << 28  # bytes: so many are read in the blink of an eye; `sha256sum -c` checks larger ones

# torch and safetensors hide the system's error in one of their own; of what could not be written
# torch may notice no more than that its place in the file is another.
_HIDDEN = {
    errno.EFBIG: "File too large",
    errno.EROFS: "Read-only file system",
    errno.EACCES: "Permission denied",
    errno.EDQUOT: "Disk quota exceeded",
    errno.ENOSPC: "No space left|PytorchStreamWriter failed|unexpected pos",
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
        WriteError: the system refused, say because the disk is full; it names the file, the cause
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
        advice = advice_on(error)
        if advice is None:
            raise
        raise WriteError(path, "file", f"cannot be written ({error.strerror}); {advice}") from error
    except (RuntimeError, SafetensorError) as error:
        hidden = (code for code, signs in _HIDDEN.items() if re.search(signs, str(error)))
        if (code := next(hidden, None)) is None:
            raise
        advice = advice_on(OSError(code, ""))
        raise WriteError(path, "file", f"cannot be written ({error}); {advice}") from error
    finally:
        # A disk that can only be read refuses this even if there is no such file.
        with contextlib.suppress(OSError):
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


def write_sums(folder: Path) -> Path:
    """Writes the checksums of all weights in ``folder``, at any depth."""
    paths = sorted(folder.rglob(WEIGHTS))
    text = "".join(f"{sha256(path)}  {path.relative_to(folder).as_posix()}\n" for path in paths)
    return write_whole(folder / SUMS, lambda part: part.write_text(text, encoding="utf-8"))


def check_sums(folder: Path, remedy: str) -> None:
    """Passes a folder whose weights are as they were shipped, or that came without checksums.

    Weights of more than :data:`LIMIT` bytes in all are not read.

    Raises:
        InputError: a file has other bytes; ``remedy`` says what to do about it.
    """
    sums = folder / SUMS
    if not sums.is_file():
        return
    wanted = {}
    for line in sums.read_text("utf-8", errors="replace").splitlines():
        digest, _, name = line.partition("  ")
        path = inside(folder, name, sums, "line")
        if path.is_file():  # one that is missing is missed by whoever loads it
            wanted[path] = digest
    states = {path: path.stat() for path in wanted}
    if sum(state.st_size for state in states.values()) > LIMIT:
        return
    for path, digest in wanted.items():
        if _known_sha256(path, states[path].st_size, states[path].st_mtime_ns) != digest:
            reason = f"the weights are not those that were shipped: the file was damaged; {remedy}"
            raise InputError(path, "sha256", reason)


@lru_cache
def _known_sha256(path: Path, size: int, changed: int) -> str:
    """Of a file of ``size`` bytes that was changed last at ``changed``: read once per process."""
    return sha256(path)


def write_json(path: str | Path, content: Any, *, sealed: bool = False) -> Path:
    """Writes JSON by :func:`write_whole`, to be read by people too."""
    text = json.dumps(content, indent=2) + "\n"
    return write_whole(path, lambda part: part.write_text(text, encoding="utf-8"), sealed=sealed)


def write_compact(path: str | Path, content: Any) -> Path:
    """Writes JSON by :func:`write_whole`, for programs: large, and on one line."""
    text = json.dumps(content)
    return write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def write_lines(path: str | Path, lines: Iterable[str]) -> Path:
    """Writes a text file of these lines by :func:`write_whole`."""
    text = "".join(f"{line}\n" for line in lines)
    return write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def read_json(path: str | Path) -> dict[str, Any] | None:
    """An object that :func:`write_json` wrote; None if there is none that can be read.

    Raises :class:`InputError` where the system would not hand the file over.
    """
    try:
        content = json.loads(Path(path).read_text("utf-8"))
    except (FileNotFoundError, ValueError, RecursionError):
        return None
    except OSError as error:
        raise InputError.denied(path, error) from error
    return content if isinstance(content, dict) else None


def load_json(
    path: str | Path, *, pairs: Callable[[list[tuple[str, Any]]], Any] | None = None
) -> Any:
    """The content of somebody's JSON file, of whatever form.

    Args:
        pairs: what becomes of an object's keys and values; None: a dict.

    Raises:
        InputError: there is no such file, it is no JSON in UTF-8, or nested too deeply to be read.
    """
    path = Path(path)
    try:
        text = path.read_text("utf-8")
        try:
            return json.loads(text, object_pairs_hook=pairs)
        except json.JSONDecodeError:
            raise
        except ValueError:  # of `pairs`; or a number of thousands of digits, which Python refuses
            return json.loads(text, object_pairs_hook=pairs, parse_int=_integer)
    except FileNotFoundError as error:
        raise InputError(path, "file", "there is no such file") from error
    except OSError as error:
        raise InputError.denied(path, error) from error
    except RecursionError as error:
        raise InputError(path, "JSON", "brackets are nested too deeply to be read") from error
    except ValueError as error:
        raise InputError(path, "JSON", f"not readable as JSON: {shortened(error)}") from error


def load_config(kind: type[Kind], path: Path, field: str = "") -> Kind:
    """The settings in a JSON file, as a pydantic class.

    Raises:
        InputError: the file cannot be read, or is not of that form; ``field`` and the first place
            that is wrong.
    """
    try:
        return kind.model_validate_json(path.read_bytes())
    except ValidationError as error:
        raise refused(path, error, field) from error
    except OSError as error:
        raise InputError.denied(path, error) from error


def _integer(text: str) -> int | str:
    """An integer of a file; one of absurd length stays a text, the fault of its record alone."""
    return int(text) if len(text) <= DIGITS else text


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
