"""What a doctor finds, and how it is told."""

from __future__ import annotations

import textwrap
from collections.abc import Iterable
from dataclasses import dataclass
from pathlib import Path
from typing import Literal

from diffground.errors import InputError

#: ``note``: all works without it, or a command makes it. ``wrong``: something will fail.
State = Literal["ok", "note", "wrong"]

_MARKS: dict[State, str] = {"ok": "ok", "note": "note", "wrong": "WRONG"}
_INDENT = " " * 8


@dataclass(frozen=True)
class Finding:
    """One thing that was looked at."""

    state: State
    what: str  # that it is
    found: str
    remedy: str = ""  # what to do; of what is ok, nothing

    @classmethod
    def of(cls, what: str, error: InputError, *, state: State = "wrong") -> Finding:
        """What an error says, whose reason ends with the remedy behind a semicolon."""
        reason, _, remedy = error.reason.partition("; ")
        field = "" if error.field in ("folder", "model folder", "root") else f"{error.field}: "
        return cls(state, what, f"{shown(Path(error.file))}: {field}{reason}", remedy)


def shown(path: Path) -> str:
    """A path as short as it can be told: from the current folder, if it is in there."""
    here = Path.cwd()
    return str(path.relative_to(here) if path.is_relative_to(here) else path)


def rendered(title: str, findings: Iterable[Finding]) -> str:
    """A section of the report: a line a finding, and below it what to do."""
    lines = [title]
    for finding in findings:
        first = f"  {_MARKS[finding.state]:<6}"
        lines.append(_filled(f"{finding.what}: {finding.found}", first, _INDENT))
        if finding.remedy:
            lines.append(_filled(finding.remedy, f"{_INDENT}-> ", f"{_INDENT}   "))
    return "\n".join(lines) + "\n"


def _filled(words: str, first: str, then: str) -> str:
    """Lines of 100 letters; paths and commands stay whole."""
    return textwrap.fill(
        words, 100, initial_indent=first, subsequent_indent=then,
        break_long_words=False, break_on_hyphens=False,
    )  # fmt: skip


def summed_up(findings: Iterable[Finding]) -> str:
    """The last line: how many things are wrong."""
    states = [finding.state for finding in findings]
    counts = [states.count(state) or "nothing" for state in ("wrong", "note", "ok")]
    return "{} wrong, {} to note, {} in order".format(*counts)
