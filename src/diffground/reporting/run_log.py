"""The run log's MLflow side: a tracker bound to one run, and what is written down about it.

Uses MLflow's client with explicit run ids, never its global "active run": that one is closed as
FINISHED when the process is interrupted, and cannot be used from two threads. ``import mlflow``
happens in :meth:`MlflowTracker.start`.
"""

from __future__ import annotations

import getpass
import math
import os
import platform
import re
import subprocess
import sys
import time
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import TYPE_CHECKING, Any

from pydantic import BaseModel

import diffground

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

MAX_NUMBERS = 500  # a JSON file with more of them is data, not figures of a run
BATCH = 100  # parameters per request that MLflow accepts


class MlflowTracker:
    """A :class:`diffground.tracking.Tracker` that writes to one run of an MLflow store."""

    def __init__(self, client: MlflowClient, run_id: str) -> None:
        self.client, self.run_id = client, run_id
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
        system_metrics: bool = False,
    ) -> MlflowTracker:
        """Opens a run.

        Args:
            uri: MLflow's tracking URI; a relative sqlite path is relative to ``project``.
            experiment: made if it is new. Its files go to ``project/mlruns`` for a sqlite store,
                and wherever the server keeps them otherwise.
            parent: id of the run that this one is shown under.
        """
        from mlflow.tracking import MlflowClient

        uri = resolve_uri(uri, project)
        client = MlflowClient(tracking_uri=uri)
        known = client.get_experiment_by_name(experiment)
        if known is None:
            files = (project / "mlruns").as_uri() if uri.startswith("sqlite:") else None
            experiment_id = client.create_experiment(experiment, artifact_location=files)
        else:
            experiment_id = known.experiment_id
        tags = {
            "mlflow.user": getpass.getuser(),
            "mlflow.source.name": " ".join([Path(sys.argv[0]).name, *sys.argv[1:]]),
            "mlflow.source.type": "LOCAL",
        }
        if parent:
            tags["mlflow.parentRunId"] = parent
        run = client.create_run(experiment_id, run_name=name, tags=tags)
        tracker = cls(client, run.info.run_id)
        if system_metrics:
            from mlflow.system_metrics.system_metrics_monitor import SystemMetricsMonitor

            tracker._monitor = SystemMetricsMonitor(tracker.run_id, tracking_uri=uri)
            tracker._monitor.start()
        return tracker

    def log_params(self, params: Mapping[str, str]) -> None:
        """Writes parameters, see :func:`flatten`."""
        from mlflow.entities import Param

        rows = [Param(_name(key), value) for key, value in params.items()]
        for start in range(0, len(rows), BATCH):
            self.client.log_batch(self.run_id, params=rows[start : start + BATCH])

    def log_metrics(self, values: Mapping[str, float], step: int | None = None) -> None:
        """Writes figures at a step, all with the same time."""
        from mlflow.entities import Metric

        now = int(time.time() * 1000)
        rows = [Metric(_name(key), float(v), now, step or 0) for key, v in values.items()]
        if rows:
            self.client.log_batch(self.run_id, metrics=rows)

    def log_artifact(self, path: str | Path, folder: str | None = None) -> None:
        """Copies a file, or a folder with all that is in it."""
        upload = self.client.log_artifacts if Path(path).is_dir() else self.client.log_artifact
        upload(self.run_id, str(path), folder)

    def log_dict(self, data: Any, name: str) -> None:
        """Keeps JSON-ready data as a file."""
        self.client.log_dict(self.run_id, data, name)

    def set_tags(self, tags: Mapping[str, str]) -> None:
        """Writes tags; MLflow cuts values after 8000 characters."""
        from mlflow.entities import RunTag

        self.client.log_batch(self.run_id, tags=[RunTag(_name(k), v) for k, v in tags.items()])

    @contextmanager
    def child(self, name: str, params: Mapping[str, Any]) -> Iterator[MlflowTracker]:
        """A run under this one with these parameters; ``FAILED`` if the block raises."""
        parent = self.client.get_run(self.run_id)
        kept = ("mlflow.user", "mlflow.source.name", "mlflow.source.type", "git.commit")
        tags = {key: parent.data.tags[key] for key in kept if key in parent.data.tags}
        run = self.client.create_run(
            parent.info.experiment_id,
            run_name=name,
            tags={**tags, "mlflow.parentRunId": self.run_id},
        )
        tracker = MlflowTracker(self.client, run.info.run_id)
        tracker.log_params(flatten(params))
        status = "FAILED"
        try:
            yield tracker
            status = "FINISHED"
        finally:
            tracker.end(status)

    def end(self, status: str) -> None:
        """Closes the run as ``FINISHED``, ``FAILED`` or ``KILLED``."""
        if self._monitor is not None:
            self._monitor.finish()
        self.client.set_terminated(self.run_id, status)


def resolve_uri(uri: str, project: Path) -> str:
    """Anchors a relative sqlite path (three slashes) at the project, not the current folder."""
    path = uri.removeprefix("sqlite:///")
    if path == uri or Path(path).is_absolute():
        return uri
    return f"sqlite:///{(project / path).as_posix()}"


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


def numbers(data: Mapping[str, Any], prefix: str) -> dict[str, float]:
    """The numbers in nested mappings as ``{"prefix/a/b": 1.5}``, without lists, texts and nulls.

    Empty if there are more than :data:`MAX_NUMBERS`.
    """
    found = dict(_numbers(data, prefix))
    return found if len(found) <= MAX_NUMBERS else {}


def code_version(project: Path) -> dict[str, str]:
    """Tags: package version, commit, and whether the checkout had changes that are in no commit."""
    tags = {"version": diffground.__version__}
    commit = _git(project, "rev-parse", "HEAD")
    changes = _git(project, "status", "--porcelain")
    if commit is None or changes is None:
        return tags | {"git.commit": "unknown", "git.dirty": "unknown"}
    dirty = "true" if changes else "false"
    return tags | {"mlflow.source.git.commit": commit, "git.commit": commit, "git.dirty": dirty}


def device() -> str:
    """The accelerator's name, or the processor's architecture."""
    import torch

    if torch.cuda.is_available():
        return f"cuda: {torch.cuda.get_device_name(0)} x{torch.cuda.device_count()}"
    if torch.backends.mps.is_available():
        return "mps"
    return f"cpu: {platform.machine()}, {os.cpu_count()} cores, {torch.get_num_threads()} threads"


def _numbers(data: Mapping[str, Any], prefix: str) -> Iterator[tuple[str, float]]:
    for key, value in data.items():
        name = f"{prefix}/{key}"
        if isinstance(value, Mapping):
            yield from _numbers(value, name)
        elif isinstance(value, int | float) and not isinstance(value, bool):
            if math.isfinite(value):
                yield name, float(value)


def _git(project: Path, *args: str) -> str | None:
    """What git says, or None where there is no git, no checkout or no commit."""
    command = ["git", "-C", str(project), *args]
    try:
        done = subprocess.run(command, capture_output=True, text=True, check=False, timeout=30)
    except (OSError, subprocess.TimeoutExpired):
        return None
    return done.stdout.strip() if done.returncode == 0 else None


def _name(key: str) -> str:
    """``key`` with characters that MLflow refuses in names replaced by underscores."""
    return re.sub(r"[^\w\-. :/]", "_", key)
