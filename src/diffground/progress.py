"""How far a long loop is: one way for all of them, quiet wherever nobody watches.

On a terminal it is a bar. In a notebook it is one line that is written over, by all loops of a
cell, so that the executed notebook keeps the last one only. Anywhere else (a file, a pipe, CI) it
is a line in the log every half minute and one at the end.
"""

from __future__ import annotations

import logging
import sys
import time
from collections.abc import Iterable, Iterator, Sized
from types import TracebackType
from typing import Any, Protocol, Self, TypeVar

from tqdm.std import tqdm

log = logging.getLogger(__name__)

Item = TypeVar("Item")

LOG_EVERY = 30.0  # seconds between two lines of the log
SHOW_EVERY = 0.5  # seconds between two changes of a notebook's line


class _View(Protocol):
    """Shows the state of one loop."""

    def show(self, done: float, note: str) -> None:
        """After every step."""

    def close(self, done: float, note: str) -> None:
        """After the last one."""


class Progress:
    """The progress of one loop; use it in ``with``, or :func:`progress` around an iterable.

    Args:
        total: how many steps there are; with 0 nothing is shown.
        description: what is being made, a few words.
        done: steps that were finished before.
        unit: of the steps, behind the number.
        hidden: shows nothing, say in a process that is not the main one.
    """

    def __init__(
        self,
        total: float,
        description: str,
        *,
        done: float = 0,
        unit: str = "",
        hidden: bool = False,
    ) -> None:
        self.done, self._note = done, ""
        self._view: _View | None = None
        if not hidden and total > done:
            self._view = _view(total, description, done, unit)

    def update(self, steps: float = 1, note: str | None = None) -> None:
        """Counts ``steps`` more; ``note`` is said beside them until there is another."""
        self.done += steps
        self._note = self._note if note is None else note
        if self._view is not None:
            self._view.show(self.done, self._note)

    def close(self) -> None:
        """Shows the end, wherever the loop was left."""
        view, self._view = self._view, None
        if view is not None:
            view.close(self.done, self._note)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        trace: TracebackType | None,
    ) -> None:
        self.close()


def progress(
    items: Iterable[Item], description: str, *, total: int | None = None, hidden: bool = False
) -> Iterator[Item]:
    """The items, one by one, with their progress shown.

    Args:
        total: how many there are, for an iterable that does not know its length.
    """
    if total is None:
        assert isinstance(items, Sized), "an iterator needs its total"
        total = len(items)
    with Progress(total, description, hidden=hidden) as bar:
        for item in items:
            yield item
            bar.update()


def _view(total: float, description: str, done: float, unit: str) -> _View:
    if _in_notebook():
        return _NotebookLine(total, description, done, unit)
    if sys.stderr is not None and sys.stderr.isatty():
        return _Bar(total, description, done, unit)
    return _LogLines(total, description, done, unit)


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code (papermill's too), and not a plain interpreter."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    return hasattr(get_ipython(), "kernel")


class _Bar:
    def __init__(self, total: float, description: str, done: float, unit: str) -> None:
        self._bar = tqdm(
            total=total,
            initial=done,
            desc=description,
            unit=unit or "it",
            unit_scale=bool(unit),
            dynamic_ncols=True,
        )

    def show(self, done: float, note: str) -> None:
        self._bar.set_postfix_str(note, refresh=False)
        self._bar.update(done - self._bar.n)

    def close(self, done: float, note: str) -> None:
        self._bar.close()


class _Line:
    """The state of a loop in words."""

    def __init__(self, total: float, description: str, done: float, unit: str) -> None:
        self._total, self._description, self._unit = total, description, unit
        self._before = done
        self._start = self._last = time.monotonic()

    def _due(self, seconds: float) -> bool:
        now = time.monotonic()
        due = now - self._last >= seconds
        self._last = now if due else self._last
        return due

    def _text(self, done: float, note: str) -> str:
        seconds = time.monotonic() - self._start
        parts = [f"{self._description}: {self._number(done)} of {self._number(self._total)}"]
        parts.append(duration(seconds))
        made = done - self._before
        if 0 < made and done < self._total:
            parts.append(f"{duration(seconds / made * (self._total - done))} to go")
        return ", ".join([*parts, *([note] if note else [])])

    def _number(self, value: float) -> str:
        return tqdm.format_sizeof(value, self._unit) if self._unit else f"{value:g}"


class _LogLines(_Line):
    def show(self, done: float, note: str) -> None:
        if done < self._total and self._due(LOG_EVERY):
            log.info("%s", self._text(done, note))

    def close(self, done: float, note: str) -> None:
        log.info("%s", self._text(done, note))


class _NotebookLine(_Line):
    """One output of a cell, shared by its loops: what is shown anew replaces what was there."""

    _cell: tuple[int, Any] = (-1, None)  # of the whole process: the cell, and its line's handle

    def show(self, done: float, note: str) -> None:
        if self._due(SHOW_EVERY):
            self._write(self._text(done, note))

    def close(self, done: float, note: str) -> None:
        self._write(self._text(done, note))

    def _write(self, text: str) -> None:
        from IPython.core.getipython import get_ipython
        from IPython.display import display

        shell: Any = get_ipython()
        content = {"text/plain": text}
        number, handle = _NotebookLine._cell
        if handle is None or number != shell.execution_count:
            handle = display(content, raw=True, display_id=True)
            _NotebookLine._cell = (shell.execution_count, handle)
        else:
            handle.update(content, raw=True)


def duration(seconds: float) -> str:
    """``7 s``, ``3 min 20 s``, ``2 h 5 min``."""
    whole = round(seconds)
    if whole < 60:
        return f"{whole} s"
    if whole < 3600:
        return f"{whole // 60} min {whole % 60} s"
    return f"{whole // 3600} h {whole % 3600 // 60} min"
