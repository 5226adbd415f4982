"""The run log: a tracker bound to one MLflow run, and what is written down about it.

Uses MLflow's client with explicit run ids, never its global "active run": that one is closed as
FINISHED when the process is interrupted, and cannot be used from two threads. What it writes goes
through :mod:`diffground.adapters.run_journal`, so that a store that is busy, full or away never
ends a run. MLflow is imported when a run begins.
"""

from __future__ import annotations

import getpass
import re
import sys
import time
import uuid
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from pydantic import BaseModel

import diffground
from diffground.adapters.run_journal import Journal, settle
from diffground.adapters.run_store import resolve_uri
from diffground.provenance import checkout
from diffground.tracking import Tracker

#: Environment: the id of the run that the runs of a process are shown under.
PARENT_RUN = "DIFFGROUND_PARENT_RUN"


class MlflowTracker(Tracker):
    """A tracker that writes to one run of an MLflow store."""

    keeps = True

    def __init__(self, journal: Journal, key: str, tags: Mapping[str, str]) -> None:
        self._journal, self._key, self._tags = journal, key, dict(tags)
        self._monitor: Any = None

    @classmethod
    def start(
        cls,
        *,
        uri: str,
        experiment: str,
        name: str,
        project: Path,
        parent: str | None = None,
        again: str | None = None,
        system_metrics: bool = False,
    ) -> MlflowTracker:
        """Opens a run; what processes that died have left is written and closed before.

        Args:
            uri: MLflow's tracking URI; a relative sqlite path is relative to ``project``.
            experiment: made if it is new.
            parent: id of the run that this one is shown under.
            again: id of an earlier run to go on in; where the store no longer has it, a new one.
        """
        settle(uri, project)
        tags = {
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "mlflow.source.type": "LOCAL",
        }
        tracker = cls(Journal(uri, experiment, project), "run", tags)
        tracker._open(name, parent, again)
        if system_metrics and tracker.run_id is not None:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            tracker._monitor = SystemMetricsMonitor(
                tracker.run_id, tracking_uri=resolve_uri(uri, project)
            )
            tracker._monitor.start()
        return tracker

    @property
    def run_id(self) -> str | None:
        """The run's id; None while the store could not make it."""
        return self._journal.ids.get(self._key)

    def log_params(self, params: Mapping[str, str]) -> None:
        """Writes parameters, see :func:`flatten`."""
        self._write("params", {"values": {_name(key): value for key, value in params.items()}})

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Writes figures at a step, all with the same time."""
        if values:
            numbers = {_name(key): float(value) for key, value in values.items()}
            self._write("metrics", {"values": numbers, "time": _now(), "step": step or 0})

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copies a file, or a folder with all that is in it."""
        self._write("file", {"path": str(path), "folder": folder})

    def log_dict(self, data: Any, name: str) -> None:
        """Keeps JSON-ready data as a file."""
        self._write("dict", {"data": data, "name": name})

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Writes tags; MLflow cuts values after 8000 characters."""
        named = {_name(key): value for key, value in tags.items()}
        self._tags |= {key: value for key, value in named.items() if key.startswith("git.")}
        self._write("tags", {"values": named})

    @contextmanager
    def child(self, name: str, params: Mapping[str, Any]) -> Iterator[MlflowTracker]:
        """A run under this one with these parameters; ``FAILED`` if the block raises."""
        tracker = MlflowTracker(self._journal, uuid.uuid4().hex, self._tags)
        tracker._open(name, self._key)
        tracker.log_params(flatten(params))
        status = "KILLED"
        try:
            yield tracker
            status = "FINISHED"
        except Exception:
            status = "FAILED"
            raise
        finally:
            tracker._close(status)

    def end(self, status: str) -> None:
        """Closes the run as ``FINISHED``, ``FAILED`` or ``KILLED``, and its journal."""
        if self._monitor is not None:
            self._monitor.finish()
        self._close(status)
        self._journal.close()

    def _open(self, name: str, parent: str | None, again: str | None = None) -> None:
        content = {"name": name, "parent": parent, "tags": self._tags, "time": _now()}
        content |= {"again": again} if again else {}
        self._write("run", content)

    def _close(self, status: str) -> None:
        self._write("end", {"status": status, "time": _now()})

    def _write(self, kind: str, content: dict[str, Any]) -> None:
        self._journal.write(self._key, kind, content)


def flatten(data: Mapping[str, Any], prefix: str = "") -> dict[str, str]:
    """Nested mappings and pydantic models as ``{"a.b": "value"}``; lists stay whole, as text."""
    flat: dict[str, str] = {}
    for key, value in data.items():
        plain = value.model_dump(mode="json") if isinstance(value, BaseModel) else value
        if isinstance(plain, Mapping) and plain:
            flat.update(flatten(plain, f"{prefix}{key}."))
        else:
            flat[f"{prefix}{key}"] = str(plain)
    return flat


def code_version(project: Path) -> dict[str, str]:
    """Tags: package version, commit, and whether the checkout had changes that are in no commit."""
    tags = {"version": diffground.__version__}
    found = checkout(project)
    if found is None:
        return tags | {"git.commit": "unknown", "git.dirty": "unknown"}
    commit, dirty = found.commit, "true" if found.changed else "false"
    return tags | {"mlflow.source.git.commit": commit, "git.commit": commit, "git.dirty": dirty}


def _now() -> int:
    """Milliseconds, as MLflow counts them."""
    return int(time.time() * 1000)


def _name(key: str) -> str:
    """``key`` with characters that MLflow refuses in names replaced by underscores."""
    return re.sub(r"[^\w\-. :/]", "_", key)
