"""What is asked of which image: of one, of a folder's, of a table's rows, or of a prompt.

A table is a ``.csv`` with a header, or a ``.jsonl``. Its columns::

    image       within the table's folder, or another that is named; or
    prompt      of which the method ``grounded`` generates an image
    phrases     between semicolons: "a cat; a sofa"; or
    narrative   a text with its phrases in [brackets], or without, so that its nouns are found

Further columns are ignored. Without a column of words, all rows are asked for the same.
"""

from __future__ import annotations

import csv
import io
import json
import re
from collections import Counter
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final, Literal, Self

from diffground.errors import InputError, shortened
from diffground.io.paths import inside, slug
from diffground.phrases.alignment import Span
from diffground.phrases.noun_phrases import read_narrative

#: Names of the files that are looked at in a folder; what they are is seen when they are opened.
SUFFIXES: Final = frozenset(
    ".avif .bmp .gif .jpe .jpeg .jpg .jp2 .pgm .png .ppm .tif .tiff .webp".split()
)
_SUBJECTS, _WORDS = ("image", "prompt"), ("phrases", "narrative")

#: How phrases were come to: written between semicolons, marked by brackets, found by a tagger, or
#: given with the data.
PhrasesBy = Literal["listed", "brackets", "found", "given"]


@dataclass(frozen=True)
class Words:
    """The phrases that are looked for, and the narrative in which they stand, if there is one."""

    phrases: tuple[str, ...]
    by: PhrasesBy
    narrative: str | None = None
    spans: tuple[Span, ...] = ()  # of the phrases in the narrative
    left_out: tuple[str, ...] = ()  # phrases beyond the limit

    @classmethod
    def read(cls, text: str, *, narrative: bool | None = None) -> Self:
        """Of a text as people write it.

        Phrases between semicolons lose their articles: a prompt brings its own.

        Args:
            narrative: False: phrases, whatever it looks like. True: a narrative, whose nouns are
                found if it has no brackets. None: a narrative if it has brackets.

        Raises:
            InputError: there is no phrase, or brackets do not pair.
        """
        if narrative or (narrative is None and ("[" in text or "]" in text)):
            plain, spans = read_narrative(text)
            by: PhrasesBy = "brackets" if "[" in text else "found"
            return cls(tuple(plain[slice(*span)] for span in spans), by, plain, tuple(spans))
        parts = (part.strip() for part in text.split(";"))
        found = [re.sub(r"^(?:an?|the)\s+", "", part, flags=re.I) for part in parts if part]
        if not found:
            reason = 'there is none; say what to look for: "a cat; a sofa"'
            raise InputError("WORDS", "phrases", reason)
        return cls(tuple(found), "listed")

    def limited(self, most: int | None) -> Words:
        """The first so many; the others are left out."""
        if most is None or len(self.phrases) <= most:
            return self
        return Words(
            self.phrases[:most], self.by, self.narrative, self.spans[:most], self.phrases[most:]
        )

    @property
    def distinct(self) -> list[str]:
        """The phrases once each, for methods that read no narrative."""
        return list(dict.fromkeys(self.phrases))


@dataclass(frozen=True)
class Request:
    """One image to look at, or to generate."""

    name: str  # of its folder among the results; "" if it is the only one
    words: Words
    image: Path | None = None
    prompt: str | None = None  # in place of an image

    @property
    def item(self) -> str:
        """What seeds the noise, beside the seed."""
        return self.name if self.image is None else self.image.stem


@dataclass(frozen=True)
class Refused:
    """A row of a table that cannot be read."""

    name: str
    error: InputError


def read_words(text: str, *, narratives: bool) -> Words:
    """What is typed for an image: see :meth:`Words.read`.

    ``narratives``: for a method that reads them, a text without brackets and semicolons is one.
    """
    return Words.read(text, narrative=True if narratives and ";" not in text else None)


def requests_of_folder(folder: Path, words: Words) -> list[Request | Refused]:
    """The images in a folder and those below it, in the order of their names; hidden ones are not.

    A result is named like its image, with the suffix only where two would be named alike.

    Raises InputError if there is no image.
    """
    found = sorted(
        path
        for path in folder.rglob("*")
        if path.suffix.lower() in SUFFIXES
        and not any(part.startswith(".") for part in path.relative_to(folder).parts)
    )
    if not found:
        reason = f"no image lies there (a file that ends in {', '.join(sorted(SUFFIXES))})"
        raise InputError(folder, "images", reason)
    plain = [path.relative_to(folder).with_suffix("").as_posix() for path in found]
    times = Counter(plain)
    names = [
        name if times[name] == 1 else path.relative_to(folder).as_posix()
        for name, path in zip(plain, found, strict=True)
    ]
    requests: list[Request | Refused] = []
    for name, path in zip(names, found, strict=True):
        try:
            inside(folder, name, folder, "images")  # results are named after it
            requests.append(Request(name, words, path))
        except InputError as error:
            requests.append(Refused(name, error))
    return requests


def read_table(table: Path, images: Path, words: Words | None = None) -> list[Request | Refused]:
    """The rows of a table, see the top of this module.

    Image names count from the folder ``images`` and stay within it.

    Args:
        words: of rows that have none of their own.

    Raises:
        InputError: the table is missing, of another kind, not UTF-8, without these columns or
            without rows. A single bad row is among those returned.
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
    found: list[Request | Refused] = []
    rows = readers[table.suffix.lower()](table, text, words is not None)
    for number, (line, row) in enumerate(rows):
        name = f"{number:03d}"
        try:
            subject = _value(row, _SUBJECTS)
            if subject is None:
                raise InputError(table, f"line {line}", "a row needs the text image, or prompt")
            column, value = subject
            name += f"_{slug(Path(value).stem if column == 'image' else value)}"
            asked = _words_of(row, words)
            if asked is None:
                reason = "a row needs the text phrases, or narrative"
                raise InputError(table, f"line {line}", reason)
            if column == "image":
                path = inside(images, value, table, f"line {line}")
                found.append(Request(name, asked, path))
            else:
                found.append(Request(name, asked, prompt=value))
        except InputError as error:
            found.append(Refused(name, error))
    if not found:
        raise InputError(table, "rows", "the table has none")
    return found


def _words_of(row: Any, words: Words | None) -> Words | None:
    given = _value(row, _WORDS)
    if given is None:
        return words
    column, text = given
    if column == "phrases":
        return Words.read(text, narrative=False)
    return Words.read(text, narrative=True)


def _value(row: Any, columns: tuple[str, ...]) -> tuple[str, str] | None:
    """The first of the columns that has a text, and the text."""
    if not isinstance(row, dict):
        return None
    for column in columns:
        text = row.get(column)
        if isinstance(text, str) and text.strip():
            return column, text.strip()
    return None


def _csv_rows(table: Path, text: str, asked: bool) -> Iterator[tuple[int, Any]]:
    reader = csv.DictReader(io.StringIO(text, newline=""))
    try:
        header = set(reader.fieldnames or ())
        if not header & {*_SUBJECTS} or not (asked or header & {*_WORDS}):
            reason = f"the columns {' or '.join(_SUBJECTS)}, and {' or '.join(_WORDS)}, are needed"
            raise InputError(table, "header", f"{reason}, not {shortened(sorted(header))}")
        for row in reader:
            yield reader.line_num, row
    except csv.Error as error:  # a field of a hundred thousand characters, say
        raise InputError(table, f"line {reader.line_num}", f"it is no CSV ({error})") from error


def _jsonl_rows(table: Path, text: str, asked: bool) -> Iterator[tuple[int, Any]]:
    for number, line in enumerate(text.splitlines(), start=1):
        if line.strip():
            try:
                yield number, json.loads(line)
            except (ValueError, RecursionError):
                yield number, None
