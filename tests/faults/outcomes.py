"""What a job made, file by file, and where two homes differ."""

from __future__ import annotations

import hashlib
import io
import json
import re
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import torch

from diffground.io.files import SEAL, is_sound
from diffground.io.notes import FileNote
from diffground.training.checkpoint import BEFORE

#: Names in JSON whose values may differ: when and how fast it was made, by how many runs, and
#: hashes and sums of what has dates; also the date in a file's note (`diffground.io.notes`).
DECLARED = {"seconds", "date", "made", "kept", "trained", "resumed_at", "seen", "sum"}
SUMMED = {"size_bytes", "digest", "contents"}  # of all files of a store, seals too
EXTRA = "only in the second"
COUNTED = {"items", "images"}  # beside seconds: what was made in them, twice if it was lost


def differences(one: Path, other: Path) -> list[str]:
    """What two homes have that the other has not, or with another content: ``name: what``."""
    left, right = _contents(one), _contents(other)
    found = [f"{name}: only in the first" for name in sorted(left.keys() - right.keys())]
    found += [f"{name}: {EXTRA}" for name in sorted(right.keys() - left.keys())]
    both = sorted(left.keys() & right.keys())
    found += [f"{name}: other content" for name in both if left[name] != right[name]]
    broken = [path for path in files(other) if is_sound(path) is False]
    return found + [f"{path.relative_to(other)}: other bytes than its seal says" for path in broken]


def files(home: Path) -> Iterator[Path]:
    """Those below ``data`` that somebody may read."""
    for path in sorted((home / "data").rglob("*")):
        hidden = any(part.startswith(".") for part in path.relative_to(home).parts)
        if path.is_file() and not hidden and path.suffix not in (".lock", ".holder"):
            yield path


def leftovers(home: Path) -> list[str]:
    """Files that nobody reads any more, and that nobody removed."""
    paths = [*home.rglob("*.part"), *home.glob("data/**/.*.old"), *home.glob("data/**/.*.partial")]
    return sorted(str(path.relative_to(home)) for path in paths)


def _contents(home: Path) -> dict[str, str]:
    """A hash of what counts of each file; the checkpoint before the last is none of a result."""
    named = {str(path.relative_to(home)): path for path in files(home)}
    return {
        name: hashlib.sha256(_content(path, home)).hexdigest()
        for name, path in named.items()
        if path.name != BEFORE and not name.endswith(SEAL)
    }


def _content(path: Path, home: Path) -> bytes:
    raw = path.read_bytes().replace(str(home).encode(), b"HOME")
    if path.suffix in (".json", ".jsonl"):
        lines = [raw] if path.suffix == ".json" else raw.splitlines()
        try:
            return b"\n".join(json.dumps(_declared(json.loads(line))).encode() for line in lines)
        except ValueError:
            return raw
    if path.suffix == ".pt":
        try:
            content = torch.load(io.BytesIO(path.read_bytes()), weights_only=True)
        except Exception:  # noqa: BLE001 - whatever it is, it is not what was written
            return raw
        return json.dumps(_plain(_declared(content)), sort_keys=True).encode()
    if path.suffix == ".md":  # the day on which it was made
        return re.sub(rb"20\d\d-\d\d-\d\d", b"DAY", raw)
    return raw


def _declared(content: Any) -> Any:
    """Without what may differ."""
    if isinstance(content, dict):
        may = DECLARED | (COUNTED if "seconds" in content else set())
        may |= SUMMED if "size_bytes" in content else set()
        return {
            key: _declared(one)
            for key, one in content.items()
            if key not in may and not str(key).endswith(SEAL)  # may admit the file before too
        }
    if isinstance(content, list):
        if len(content) == len(FileNote._fields) and isinstance(content[1], int):
            return content[::2]
        return [_declared(one) for one in content]
    return content


def _plain(content: Any) -> Any:
    """Tensors as hashes."""
    if isinstance(content, torch.Tensor):
        return [str(content.dtype), hashlib.sha256(content.numpy().tobytes()).hexdigest()]
    if isinstance(content, dict):
        return {str(key): _plain(one) for key, one in content.items()}
    return [_plain(one) for one in content] if isinstance(content, list | tuple) else content
