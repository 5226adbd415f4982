"""A tracker that remembers what it was told, with the runs under it."""

from __future__ import annotations

from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import pytest

from diffground import tracking


class Recorder:
    """See :class:`diffground.tracking.Tracker`; ``children`` are recorders, by name."""

    keeps = True

    def __init__(self, params: Mapping[str, Any] | None = None) -> None:
        self.params = dict(params or {})
        self.metrics: dict[str, float] = {}
        self.files: set[str] = set()
        self.children: dict[str, Recorder] = {}

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        self.metrics |= values

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        assert Path(path).stat().st_size
        self.files.add(f"{folder}/{Path(path).name}")

    def log_dict(self, data: Any, name: str) -> None:
        self.files.add(name)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        pass

    @contextmanager
    def child(self, name: str, params: Mapping[str, Any]) -> Iterator[Recorder]:
        self.children[name] = Recorder(params)
        yield self.children[name]


@contextmanager
def recorded(monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    """What is logged in the block."""
    recorder = Recorder()
    with monkeypatch.context() as patch:
        patch.setattr(tracking, "_current", recorder)
        yield recorder
