"""The table of images and narratives that are to be grounded, row by row."""

from __future__ import annotations

import csv
import io
import json
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from diffground.errors import InputError
from diffground.io.paths import inside, slug
from diffground.phrases.alignment import Span

COLUMNS = ("image", "narrative")


@dataclass(frozen=True)
class Request:
    """One image to ground. A row that cannot be read has an ``error`` in place of its content."""

    name: str  # of its folder among the results; "" if it is the only one
    image: Path = Path()
    narrative: str = ""  # with or without brackets
    spans: tuple[Span, ...] | None = None  # its phrases, where they are known
    error: InputError | None = None


def read_requests(table: Path, images: Path) -> list[Request]:
    """The rows of a ``.csv`` (with a header) or ``.jsonl`` table of ``image`` and ``narrative``.

    Further columns are ignored. Image names count from the folder ``images`` and stay within it.

    Raises:
        InputError: the table is missing, of another kind, not UTF-8, without these columns or
            without rows. A single bad row is a request with an error.
    """
    readers = {".csv": _csv_rows, ".jsonl": _jsonl_rows}
    if table.suffix.lower() not in readers:
        raise InputError(table, "format", f"one of {', '.join(readers)} is needed")
    try:
        text = table.read_text("utf-8-sig")
    except OSError as error:
        raise InputError(table, "file", f"cannot be read ({error.strerror})") from error
    except UnicodeDecodeError as error:
        raise InputError(table, "encoding", f"not UTF-8 ({error})") from error
    requests = []
    for number, (line, row) in enumerate(readers[table.suffix.lower()](table, text)):
        values = [row.get(column) if isinstance(row, dict) else None for column in COLUMNS]
        image, narrative = (v.strip() if isinstance(v, str) else "" for v in values)
        name = f"{number:03d}"
        try:
            if not image or not narrative:
                reason = f"a row needs the texts {' and '.join(COLUMNS)}"
                raise InputError(table, f"line {line}", reason)
            name += f"_{slug(Path(image).stem)}"
            path = inside(images, image, table, f"line {line}")
            requests.append(Request(name, path, narrative))
        except InputError as error:
            requests.append(Request(name, error=error))
    if not requests:
        raise InputError(table, "rows", "the table has none")
    return requests


def _csv_rows(table: Path, text: str) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        if not set(COLUMNS) <= set(reader.fieldnames or ()):
            raise InputError(table, "header", f"the columns {' and '.join(COLUMNS)} are needed")
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:  # a field of a hundred thousand characters, say
        raise InputError(table, f"line {reader.line_num}", f"it is no CSV ({error})") from error


def _jsonl_rows(table: Path, text: str) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None
