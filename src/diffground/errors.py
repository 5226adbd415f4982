"""Errors for users, and the report of samples that had to be skipped."""

from __future__ import annotations

import errno
import os
from collections import Counter
from collections.abc import Callable
from dataclasses import asdict, dataclass, field
from json import JSONDecodeError
from pathlib import Path
from typing import Any

#: Field of what the system would not hand over just now (a right, a disk, a network): it may pass,
#: so nothing that is kept may rest on it.
ACCESS = "access"
#: Set to 1, failures that are the user's to mend are shown with their traceback too.
TRACEBACK = "DIFFGROUND_TRACEBACK"
HINT = f"({TRACEBACK}=1 shows where in the code.)"


_ADVICE = {
    errno.ENOSPC: "free some space, or name another folder, and start again",
    errno.EDQUOT: "the quota is used up: free some space, or name another folder",
    errno.EFBIG: "files may not be so large here: raise the limit, or name another folder",
    errno.EROFS: "name a folder that can be written",
    errno.EACCES: "give yourself the right to it, or name another folder",
    errno.EPERM: "give yourself the right to it, or name another folder",
}


def advice_on(error: OSError) -> str | None:
    """What to do about what the system refuses; None if it is something else that went wrong."""
    return _ADVICE.get(error.errno or 0)


def wants_traceback() -> bool:
    """Whether the environment asks for tracebacks."""
    return os.environ.get(TRACEBACK, "0") not in ("", "0")


class _Told:
    """An exception whose message is enough: a notebook shows it without the traceback."""

    @property
    def _render_traceback_(self) -> Callable[[], list[str]]:  # the name that IPython looks for
        if wants_traceback():
            raise AttributeError("_render_traceback_")
        return lambda: [f"{type(self).__name__}: {self}", "", HINT]


class RunFailed(_Told, RuntimeError):
    """A run that ended for a reason that the message tells."""


class InputError(_Told, ValueError):
    """Something the user gave is wrong. The message names the file, the field and the remedy."""

    def __init__(self, file: str | Path, field: str, reason: str) -> None:
        self.file, self.field, self.reason = str(file), field, reason
        super().__init__(f"{self.file}: {field}: {reason}")

    def __reduce__(self) -> tuple[type[InputError], tuple[str, str, str]]:
        """With its fields, out of a worker too."""
        return type(self), (self.file, self.field, self.reason)

    @classmethod
    def denied(cls, file: str | Path, error: OSError) -> InputError:
        """The system would not hand over a file that may well be sound, see :data:`ACCESS`."""
        reason = f"cannot be opened ({error.strerror or error}); see that it can be read, and "
        return cls(file, ACCESS, f"{reason}start again")


class WriteError(InputError):
    """The system refuses to write a file. No item is to blame for it, and it ends a run."""


def shortened(value: object) -> str:
    """A user's value as Python writes it, as a message's last words; of a long one, how it begins.

    The reason goes before it: behind a page of text nobody reads on.
    """
    if isinstance(value, UnicodeError | JSONDecodeError):  # others would repeat what they read
        return str(value)
    try:
        text = value if isinstance(value, str) else repr(value)
    except (RecursionError, ValueError):  # too deep, or a number of thousands of digits
        return f"a {type(value).__name__} that cannot be shown"
    begun = repr(text[:60]) if isinstance(value, str) else text[:60]
    return begun if len(text) <= 60 else f"{begun} ... ({len(text)} characters)"


@dataclass(frozen=True)
class Problem:
    """One skipped sample: what it is, where the fault is, and why it could not be used."""

    item: str
    file: str
    field: str
    reason: str

    @classmethod
    def of(cls, item: str, error: InputError) -> Problem:
        """The problem that ``error`` means for the sample ``item``."""
        return cls(item, error.file, error.field, error.reason)

    @property
    def may_pass(self) -> bool:
        """Whether the file could not be opened just now, and nothing is known of its content."""
        return self.field == ACCESS


@dataclass
class ProblemReport:
    """Collects the problems of one reading of a dataset.

    ``total`` counts the items that were looked at, broken ones included.
    """

    total: int = 0
    problems: list[Problem] = field(default_factory=list)

    def add(self, item: str, error: InputError) -> None:
        """Notes that ``item`` was skipped because of ``error``."""
        self.problems.append(Problem.of(item, error))

    def to_dict(self) -> dict[str, Any]:
        """JSON-ready: ``{"total", "skipped", "by_field", "problems"}``."""
        return {
            "total": self.total,
            "skipped": len({problem.item for problem in self.problems}),
            "by_field": dict(Counter(problem.field for problem in self.problems)),
            "problems": [asdict(problem) for problem in self.problems],
        }
