"""The corpus of bad inputs: cases as data, what they write, and what is to become of them.

A case of ``cases/*.yml`` spoils a reader's sound folder (:mod:`sound`) and says what is then told::

    - reader: mug19
      name: a picture outside of the data
      files: {items.json: {set: {0.images.0: ../outside.png}}}
      skipped: {file: items.json, field: images, says: no path within the dataset}

``files`` says what becomes of each file (see :func:`spoil`); ``error`` that reading ends with an
InputError, ``skipped`` that it goes on and lists one, with the end of the file's path, the field
and words of the reason. ``cases/general.yml`` has what may befall any file of a kind: of these the
message has to name the file, another one that does not go with it, or their folder. A value
``OUTSIDE`` is the path of a sound picture that is no part of the data.
"""

from __future__ import annotations

import json
import os
import pickle
import re
import shutil
import signal
import struct
import warnings
import zipfile
import zlib
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from types import FrameType
from typing import Any, Final

import numpy as np
import torch
import yaml
from PIL import Image
from safetensors.torch import save_file
from sound import READERS, copy_of

from diffground.errors import InputError, Problem
from diffground.io.labels import write_labels

CASES: Final = Path(__file__).parent / "cases"
GENERAL: Final = "general.yml"
SECONDS: Final = 20.0  # that a case may take on a busy core; most take milliseconds
LONGEST: Final = 2500  # characters of a message: a bad file may not fill the screen
OUTSIDE: Final = "outside.png"


@dataclass(frozen=True)
class Case:
    """A spoiled folder, and what is to be told of it."""

    reader: str
    name: str
    files: Mapping[str, Mapping[str, Any]]
    error: Mapping[str, str] | None = None
    skipped: Mapping[str, str] | None = None
    general: bool = False  # either is right, as long as it names the file

    def __str__(self) -> str:
        return f"{self.reader}: {self.name}"


@dataclass
class Outcome:
    """What became of a case: an error, or what was left out."""

    error: InputError | None = None
    skipped: list[Problem] = field(default_factory=list)


def cases() -> Iterator[Case]:
    """All of them."""
    for path in sorted(CASES.glob("*.yml")):
        if path.name == GENERAL:
            continue
        for row in yaml.safe_load(path.read_text("utf-8")):
            yield Case(**row)
    faults = yaml.safe_load((CASES / GENERAL).read_text("utf-8"))
    for name, reader in READERS.items():
        for file, kind in reader.files.items():
            for fault, action in faults[kind].items():
                if f"{file}: {fault}" not in reader.harmless:
                    yield Case(name, f"{file}: {fault}", {file: action}, general=True)


def outcome(case: Case, folder: Path) -> Outcome:
    """Spoils a copy of the sound folder at ``folder / "data"`` and reads it.

    Whatever is raised but an InputError goes on to the test.
    """
    data = copy_of(case.reader, folder / "data")
    outside = folder / OUTSIDE
    Image.new("RGB", (16, 12)).save(outside)
    for name, action in case.files.items():
        spoil(data / name, action, outside)
    with within(SECONDS), warnings.catch_warnings():
        warnings.simplefilter("error", Image.DecompressionBombWarning)
        try:
            return Outcome(skipped=READERS[case.reader].read(data))
        except InputError as error:
            return Outcome(error=error)


def judge(case: Case, found: Outcome) -> None:
    """Asserts that it is what the case wants."""
    assert found.error or found.skipped, f"nothing was said of {case}"
    if case.general:
        told = [found.error] if found.error else found.skipped
        assert any(re.search(r"/data\b", f"{one.file} {one.reason}") for one in told), told
    else:
        wanted = case.error or case.skipped
        assert wanted is not None
        one = found.error if case.error else (found.skipped or [None])[0]
        assert one is not None, f"expected {wanted}, not {found}"
        assert one.file.endswith(wanted["file"]), one
        assert wanted["field"] in one.field, one
        assert wanted["says"] in one.reason, one
    for one in [found.error] if found.error else found.skipped:
        text = f"{getattr(one, 'item', '')}{one.file}{one.field}{one.reason}"
        assert one.reason.strip() and len(text) < LONGEST


@contextmanager
def within(seconds: float) -> Iterator[None]:
    """Raises TimeoutError in the block when it takes longer."""

    def late(number: int, frame: FrameType | None) -> None:
        raise TimeoutError(f"not done after {seconds} s")

    before = signal.signal(signal.SIGALRM, late)
    signal.setitimer(signal.ITIMER_REAL, seconds)
    try:
        yield
    finally:
        signal.setitimer(signal.ITIMER_REAL, 0)
        signal.signal(signal.SIGALRM, before)


def spoil(path: Path, action: Mapping[str, Any], outside: Path) -> None:
    """Does to a file what one key of ``action`` says.

    ======== ======================================================================
    text     has this text; ``binary`` these bytes
    repeat   has ``[text, times]``, and a third text before that
    cut      keeps this share of its bytes
    encode   has its text in this encoding
    set      JSON or text of lines: ``{dotted.path: value}``; the file's top is ``""``
    drop     JSON: without these paths
    replace  text: ``{old: new}``
    picture  is one of Pillow's: ``{mode, size, format}``
    claims   a PNG that says it is ``[width, height]``
    write    what a function of :data:`WRITERS` writes
    remove   is not there; ``folder``: a folder is in its place
    copy     is a copy of this file beside it
    ======== ======================================================================
    """
    ((what, value),) = action.items()
    before = path.read_bytes() if path.is_file() else b""
    path.unlink(missing_ok=True)
    path.parent.mkdir(parents=True, exist_ok=True)
    match what:
        case "text":
            path.write_text(_named(value, outside), "utf-8")
        case "binary":
            path.write_bytes(value)
        case "repeat":
            path.write_text("".join(value[2:]) + value[0] * value[1], "utf-8")
        case "cut":
            path.write_bytes(before[: int(len(before) * value)])
        case "encode":
            path.write_bytes(before.decode().encode(value))
        case "set" | "drop":
            path.write_text(json.dumps(_changed(before, what, value, outside)), "utf-8")
        case "replace":
            path.write_text(_replaced(before.decode(), value, outside), "utf-8")
        case "picture":
            picture = Image.new(value["mode"], tuple(value["size"]))
            picture.save(path, format=value.get("format", "PNG"))
        case "claims":
            path.write_bytes(_claiming(*value))
        case "write":
            WRITERS[value](path)
        case "folder":
            path.mkdir()
        case "copy":
            shutil.copy(path.parent / value, path)
        case _:
            assert what == "remove", f"{what} is none of the actions"


def _named(value: Any, outside: Path) -> Any:
    return value.replace("OUTSIDE", str(outside)) if isinstance(value, str) else value


def _replaced(text: str, value: Mapping[str, str], outside: Path) -> str:
    for old, new in value.items():
        assert old in text, old
        text = text.replace(old, _named(new, outside))
    return text


def _changed(before: bytes, what: str, value: Any, outside: Path) -> Any:
    """JSON with other values in some places."""
    content = json.loads(before)
    for place in value:
        if place == "":
            return _named(value[place], outside)
        *way, last = (int(part) if part.isdigit() else part for part in place.split("."))
        inner = content
        for part in way:
            inner = inner[part]
        if what == "drop":
            del inner[last]
        else:
            inner[last] = _named(value[place], outside)
    return content


def _claiming(width: int, height: int) -> bytes:
    """A PNG of a few bytes whose header says how large it is."""

    def chunk(kind: bytes, content: bytes) -> bytes:
        checked = struct.pack(">I", zlib.crc32(kind + content))
        return struct.pack(">I", len(content)) + kind + content + checked

    header = struct.pack(">IIBBBBB", width, height, 8, 2, 0, 0, 0)
    parts = chunk(b"IHDR", header), chunk(b"IDAT", zlib.compress(b"\0" * 64)), chunk(b"IEND", b"")
    return b"\x89PNG\r\n\x1a\n" + b"".join(parts)


def _frames(path: Path) -> None:
    frames = [Image.new("L", (4, 4), grey) for grey in (0, 255)]
    frames[0].save(path, format="GIF", save_all=True, append_images=frames[1:])


class Harm:
    """Unpickled, it writes a file: nothing may read it."""

    def __reduce__(self) -> tuple[Any, ...]:
        return os.mkdir, ("it ran",)


def _bomb(path: Path) -> None:
    """A torch file of a few kilobytes whose storage unpacks to 64 MB."""
    torch.save({"unet": {"a": torch.zeros(16)}}, path)
    with zipfile.ZipFile(path) as archive:
        parts = {info.filename: archive.read(info) for info in archive.infolist()}
    with zipfile.ZipFile(path, "w", zipfile.ZIP_DEFLATED) as archive:
        for name, content in parts.items():
            with archive.open(name, "w", force_zip64=True) as part:
                part.write(content)
                if name.endswith("/data/0"):
                    for _ in range(1 << 6):
                        part.write(bytes(1 << 20))


def _wide(path: Path) -> None:
    """One number that says it is a tensor of a petabyte."""
    row = torch.zeros(1).expand(1 << 24, 1 << 24)
    torch.save({"unet": {"a": row}, "state_dict": {"embed": row}}, path)


def _safetensors(header: bytes, length: int | None = None) -> Callable[[Path], object]:
    size = struct.pack("<Q", len(header) if length is None else length)
    return lambda path: path.write_bytes(size + header)


_HUGE: Final = {"a": {"dtype": "F32", "shape": [1 << 40, 1 << 20], "data_offsets": [0, 4]}}
WRITERS: Final[dict[str, Callable[[Path], object]]] = {
    "torch code": lambda path: torch.save({"unet": Harm()}, path),
    "pickled code": lambda path: path.write_bytes(pickle.dumps({"unet": Harm()})),
    "torch list": lambda path: torch.save([torch.zeros(1)], path),
    "torch number": lambda path: torch.save(1, path),
    "torch texts": lambda path: torch.save({"unet": "a", "state_dict": "b", "model": "c"}, path),
    "torch bomb": _bomb,
    "torch wide": _wide,
    "header too long": _safetensors(b"{}", 1 << 62),
    "header of code": _safetensors(b"{" * 64),
    "header of gigabytes": _safetensors(json.dumps(_HUGE).encode() + bytes(4)),
    "header deep": _safetensors(b'{"a":' + b"[" * 100_000),
    "torch other": lambda path: torch.save({"weights": {}}, path),
    "torch key": lambda path: torch.save({"key": "another", "record": {}}, path),
    "safetensors other": lambda path: save_file({"other": torch.zeros(3)}, path),
    "odd labels": lambda path: write_labels(path, np.full((12, 16), 200, np.uint8)),
    "animation": _frames,
    "loop": lambda path: path.symlink_to(path.name),
}
