"""The checksums that travel with a folder of weights: ``SHA256SUMS``, as ``sha256sum -c`` reads it.

Model folders that are copied, checked out or unpacked have no note of their own to be compared
with, and a flipped bit in a weight changes results without a word.
"""

from __future__ import annotations

from functools import lru_cache
from pathlib import Path

from diffground.errors import InputError
from diffground.io.files import sha256, write_whole
from diffground.io.paths import inside

SUMS = "SHA256SUMS"
WEIGHTS = "*.safetensors"
LIMIT = 1 << 28  # bytes: so many are read in the blink of an eye; `sha256sum -c` checks larger ones


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
        if _sha256(path, states[path].st_size, states[path].st_mtime_ns) != digest:
            reason = f"the weights are not those that were shipped: the file was damaged; {remedy}"
            raise InputError(path, "sha256", reason)


@lru_cache
def _sha256(path: Path, size: int, changed: int) -> str:
    """Of a file of ``size`` bytes that was changed last at ``changed``: read once per process."""
    return sha256(path)
