"""What is to be logged, kept until it is: a store that is busy or away delays a log, not a run.

Every process that logs has a folder ``mlruns/.open/<key>`` while it runs: a lock that the system
frees if the process dies, which runs are open, and what could not be written yet. The next start
finds what a dead process left (:func:`settle`), writes it, and closes its runs.
"""

from __future__ import annotations

import json
import logging
import shutil
import time
import uuid
from contextlib import ExitStack, suppress
from pathlib import Path
from typing import TYPE_CHECKING, Any

from diffground.adapters.run_store import experiment_id, open_store
from diffground.errors import InputError
from diffground.io.files import read_json, write_json
from diffground.io.locks import held

if TYPE_CHECKING:
    from mlflow.tracking import MlflowClient

log = logging.getLogger(__name__)

# {"run": key, "kind": "params" | "metrics" | ..., "content": {...}}; of those that are kept, "id"
# says that a run was made, "written" that nothing before it waits any more.
Record = dict[str, Any]

RETRY = 30.0  # seconds until a store that failed is tried again
# What no later try will change: the record is dropped, with a warning.
_HOPELESS = ("INVALID_PARAMETER_VALUE", "BAD_REQUEST", "RESOURCE_DOES_NOT_EXIST", "INVALID_STATE")


class Journal:
    """Writes records to a store, or keeps them.

    Args:
        uri, experiment, project: of the store, as in the configuration.
        folder: where records are kept; None makes one, in ``project/mlruns``.
    """

    def __init__(
        self, uri: str, experiment: str, project: Path, folder: Path | None = None
    ) -> None:
        self._uri, self._experiment, self._project = uri, experiment, project
        self.ids: dict[str, str] = {}  # key of a run -> its id in the store
        self._waiting: list[Record] = []
        self._client: MlflowClient | None = None
        self._retry_at = 0.0
        self._lock = ExitStack()
        self._folder = folder
        if folder is None:
            self._folder = self._begin()

    def write(self, run: str, kind: str, content: Record) -> None:
        """Writes a record of a run, after those that wait; never raises for the store's sake."""
        self._waiting.append({"run": run, "kind": kind, "content": content})
        if time.monotonic() >= self._retry_at and self.flush():
            return
        record = self._waiting[-1]
        if record["kind"] == "file" and self._folder is not None:
            record["content"] = self._kept(Path(content["path"]), content)
        self._append(record)

    def flush(self) -> bool:
        """Writes what waits; whether nothing waits any more."""
        start = time.monotonic()
        kept = len(self._waiting) > 1
        try:
            while self._waiting:
                self._deliver(self._waiting[0])
                del self._waiting[0]
        except Exception as error:  # of MLflow, its database, the network or the disk
            self._warn(error)
            self._retry_at = time.monotonic() + max(RETRY, 10 * (time.monotonic() - start))
            return False
        self._retry_at = 0.0
        if kept and self._folder is not None:
            self._append({"run": "", "kind": "written", "content": {}})
            shutil.rmtree(self._folder / "files", ignore_errors=True)
        return True

    def close(self) -> None:
        """A last try for what waits; it is left for the next start if that fails."""
        done = self.flush()
        if not done and self._folder is None:
            log.warning("%d records of the run log are lost", len(self._waiting))
        elif not done:
            log.warning("the next run writes to the run log what is kept in %s", self._folder)
        self._lock.close()
        if done and self._folder is not None:
            shutil.rmtree(self._folder, ignore_errors=True)

    def _begin(self) -> Path | None:
        folder = self._project / "mlruns" / ".open" / uuid.uuid4().hex
        try:
            self._lock.enter_context(held(folder / "lock", "this run", wait=False))
            store = {"uri": self._uri, "experiment": self._experiment}
            write_json(folder / "store.json", store)
        except (OSError, InputError) as error:
            log.warning("nothing can be kept for the run log: %s", error)
            return None
        return folder

    def _deliver(self, record: Record) -> None:
        from mlflow.exceptions import MlflowException

        if self._client is None:
            self._client = open_store(self._uri, self._project)
        try:
            self._apply(self._client, record)
        except MlflowException as error:
            if error.error_code not in _HOPELESS:
                raise
            log.warning("the run log refuses %s: %s", record["kind"], error)

    def _apply(self, client: MlflowClient, record: Record) -> None:
        key, content = record["run"], record["content"]
        if record["kind"] == "run":
            self.ids[key] = self._create(client, content)
            self._append({"run": key, "kind": "id", "content": {"id": self.ids[key]}})
        elif key in self.ids:  # else the store would not have the run
            _put(client, self.ids[key], record["kind"], content)

    def _create(self, client: MlflowClient, content: Record) -> str:
        again = content.get("again")
        if again is not None and _is_there(client, again):
            client.update_run(again, "RUNNING")
            return str(again)
        tags = dict(content["tags"])
        if parent := self.ids.get(content["parent"], content["parent"]):
            tags["mlflow.parentRunId"] = parent
        experiment = experiment_id(client, self._experiment, self._uri, self._project)
        run = client.create_run(
            experiment, run_name=content["name"], tags=tags, start_time=content["time"]
        )
        return str(run.info.run_id)

    def _kept(self, path: Path, content: Record) -> Record:
        """A file's record, with a copy of the file: the next run would write over it."""
        assert self._folder is not None
        copy = self._folder / "files" / uuid.uuid4().hex / path.name
        try:
            copy.parent.mkdir(parents=True)
            (shutil.copytree if path.is_dir() else shutil.copy)(path, copy)
        except OSError as error:
            self._warn(error)
            return content
        return {**content, "path": str(copy)}

    def _append(self, record: Record) -> None:
        if self._folder is None:
            return
        try:
            with (self._folder / "records.jsonl").open("a", encoding="utf-8") as file:
                file.write(json.dumps(record, default=str) + "\n")
        except OSError as error:
            self._warn(error)

    def _warn(self, error: Exception) -> None:
        kept = f"kept in {self._folder}" if self._folder else "kept in memory"
        first = str(error).strip().partition("\n")[0]
        log.warning("the run log cannot be written (%s); what comes is %s", first, kept)

    def recover(self) -> None:
        """Writes what a dead process left, and closes its runs as KILLED.

        Raises:
            Exception: the store cannot be written now either; all is left as it was.
        """
        assert self._folder is not None
        left: list[Record] = []
        for line in (self._folder / "records.jsonl").read_text("utf-8").splitlines():
            with suppress(ValueError):  # it may have died while it wrote the last one
                record: Record = json.loads(line)
                if record["kind"] == "id":
                    self.ids[record["run"]] = record["content"]["id"]
                elif record["kind"] == "written":
                    left.clear()
                else:
                    left.append(record)
        self._client = client = open_store(self._uri, self._project)
        for record in left:
            made = record["kind"] == "run" and record["run"] in self.ids
            if not made:
                self._deliver(record)
        for run in self.ids.values():
            if client.get_run(run).info.status == "RUNNING":
                client.set_tag(run, "ended", "its process died; closed by a later run")
                client.set_terminated(run, "KILLED")


def _is_there(client: MlflowClient, run: str) -> bool:
    """Whether a store has a run, and not in its bin."""
    from mlflow.exceptions import MlflowException

    try:
        return str(client.get_run(run).info.lifecycle_stage) == "active"
    except MlflowException as error:
        if error.error_code != "RESOURCE_DOES_NOT_EXIST":
            raise
        return False


def settle(uri: str, project: Path) -> None:
    """Recovers the journals of dead processes that wrote to the store ``uri``."""
    for folder in sorted((project / "mlruns" / ".open").glob("*")):
        store = read_json(folder / "store.json")
        if store is None or store.get("uri") != uri:
            continue
        try:
            with held(folder / "lock", "this run", wait=False):
                if (folder / "records.jsonl").exists():
                    Journal(uri, str(store["experiment"]), project, folder).recover()
        except InputError:
            continue  # alive
        except Exception as error:
            log.warning("what %s keeps for the run log has to wait: %s", folder, error)
            continue
        shutil.rmtree(folder, ignore_errors=True)


def _put(client: MlflowClient, run: str, kind: str, content: Record) -> None:
    """Writes a record of a run that the store has."""
    from mlflow.entities import Metric, Param, RunTag

    match kind:
        case "params":
            client.log_batch(run, params=[Param(*pair) for pair in content["values"].items()])
        case "metrics":
            when, step = content["time"], content["step"]
            rows = [Metric(key, value, when, step) for key, value in content["values"].items()]
            client.log_batch(run, metrics=rows)
        case "tags":
            client.log_batch(run, tags=[RunTag(*pair) for pair in content["values"].items()])
        case "file":
            is_folder = Path(content["path"]).is_dir()
            upload = client.log_artifacts if is_folder else client.log_artifact
            upload(run, content["path"], content["folder"])
        case "dict":
            client.log_dict(run, content["data"], content["name"])
        case "end":
            client.set_terminated(run, content["status"], content["time"])
