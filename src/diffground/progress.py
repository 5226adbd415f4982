"""How far a long loop is: one way for all of them, quiet wherever nobody watches.

On a terminal it is a bar. In a notebook it is one line that is written over, by all loops of a
cell, so that the executed notebook keeps the last one only. Anywhere else (a file, a pipe, CI) it
is a line in the log every half minute and one at the end.
"""

from __future__ import annotations

import logging
import sys
from collections.abc import Iterable, Iterator, Sized
from typing import Any, TypeVar

from tqdm.std import tqdm

log = logging.getLogger(__name__)

Item = TypeVar("Item")

LOG_EVERY = 30.0  # seconds between two lines of the log
SHOW_EVERY = 0.5  # seconds between two changes of a notebook's line, or of a bar

_cell: tuple[int, Any] = (-1, None)  # of a notebook: the cell, and the handle of its line


class Progress(tqdm):
    """The progress of one loop; use it in ``with``, or :func:`progress` around an iterable.

    It is tqdm's bar, which tells its state in words where no terminal shows it.

    Args:
        total: how many steps there are; with 0 nothing is shown.
        description: what is being made, a few words.
        done: steps that were finished before.
        unit: of the steps, behind the number.
        hidden: shows nothing, say in a process that is not the main one.
    """

    monitor_interval = 0  # no thread beside the loop

    def __init__(
        self,
        total: float,
        description: str,
        *,
        done: float = 0,
        unit: str = "",
        hidden: bool = False,
    ) -> None:
        notebook = _in_notebook()
        in_words = notebook or sys.stderr is None or not sys.stderr.isatty()
        self._tell = _write_over if notebook else log.info
        super().__init__(
            total=total,
            initial=done,
            desc=description,
            unit=unit or "it",
            unit_scale=bool(unit),
            dynamic_ncols=True,
            disable=hidden or total <= done,
            gui=in_words,  # so that tqdm only counts, and `display` shows
            mininterval=SHOW_EVERY if notebook or not in_words else LOG_EVERY,
            miniters=1,
        )

    def update(self, n: float = 1, note: str | None = None) -> None:
        """Counts ``n`` steps more; ``note`` is said beside them until there is another."""
        if note is not None:
            self.set_postfix_str(note, refresh=False)
        super().update(n)

    def display(self, msg: str | None = None, pos: int | None = None) -> None:
        """Shows the state, whenever tqdm finds it is time."""
        if not self.gui:
            super().display(msg, pos)
        elif self.n < self.total:  # the end is told once, by `close`
            self._tell(self._words())

    def close(self) -> None:
        """Shows the end, wherever the loop was left."""
        ends = not self.disable and self.gui
        super().close()
        if ends:
            self._tell(self._words())

    def _words(self) -> str:
        """The state, as ``maps: 13 of 20, 35 s, 49 s to go, loss 4``."""
        seconds, made = self.format_dict["elapsed"], self.n - self.initial
        done, total = map(self._number, (self.n, self.total))
        parts = [f"{self.desc}: {done} of {total}", duration(seconds)]
        if 0 < made and self.n < self.total:
            parts.append(f"{duration(seconds / made * (self.total - self.n))} to go")
        return ", ".join([*parts, *([self.postfix] if self.postfix else [])])

    def _number(self, value: float) -> str:
        return str(self.format_sizeof(value, self.unit)) if self.unit_scale else f"{value:g}"


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


def _in_notebook() -> bool:
    """Whether a Jupyter kernel runs this code (papermill's too), and not a plain interpreter."""
    if "ipykernel" not in sys.modules:
        return False
    from IPython.core.getipython import get_ipython

    return hasattr(get_ipython(), "kernel")


def _write_over(text: str) -> None:
    """The one line of a notebook's cell, in place of what its loops said before."""
    from IPython.core.getipython import get_ipython
    from IPython.display import display

    global _cell  # noqa: PLW0603
    shell: Any = get_ipython()
    content = {"text/plain": text}
    number, handle = _cell
    if handle is None or number != shell.execution_count:
        _cell = shell.execution_count, display(content, raw=True, display_id=True)
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
