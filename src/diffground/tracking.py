"""Where nodes send what a run should remember, without knowing who keeps it.

A pipeline node hands ``get_tracker().log_metrics`` to the training loop as its ``log`` callback.
Under ``kedro run`` the hook in :mod:`diffground.adapters.hooks` installs a tracker that writes to
MLflow; anywhere else the tracker forgets everything. The science rooms take callbacks and do not
import this module; the runner of tables does, whose rows are runs of their own.
"""

from __future__ import annotations

import math
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

MAX_NUMBERS = 500  # a JSON file with more of them is data, not figures of a run


class Tracker:
    """Receives the figures and files of one run; this one forgets them, as nothing is logged."""

    keeps = False  # nothing is kept, so nothing needs to be drawn for it

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Figures at one step (None: of the run as a whole)."""

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """A file or a folder, copied under ``folder`` of the run."""

    def log_dict(self, data: Any, name: str) -> None:
        """JSON-ready ``data``, kept as the file ``name`` (``.json`` or ``.yml``)."""

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Short facts about the run, to search by."""

    @contextmanager
    def child(self, name: str, params: Mapping[str, Any]) -> Iterator[Tracker]:
        """A run shown under this one, say a row of a table, that ends with the ``with`` block."""
        yield self


_current = Tracker()


def get_tracker() -> Tracker:
    """This process's tracker."""
    return _current


def set_tracker(tracker: Tracker | None) -> None:
    """Installs this process's tracker; None goes back to forgetting."""
    global _current  # noqa: PLW0603
    _current = Tracker() if tracker is None else tracker


def numbers(data: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The numbers in nested mappings as ``{"prefix/a/b": 1.5}``, without lists, texts and nulls.

    Empty if there are more than :data:`MAX_NUMBERS`.
    """
    found = dict(_numbers(data, prefix))
    return found if len(found) <= MAX_NUMBERS else {}


def _numbers(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in data.items():
        name = f"{prefix}/{key}"
        if isinstance(value, Mapping):
            yield from _numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if math.isfinite(value):
                yield name, float(value)
