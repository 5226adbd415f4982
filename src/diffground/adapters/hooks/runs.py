"""Every ``kedro run`` is logged to MLflow, and of several processes one writes.

MLflow takes seconds to import and to set up its database, so it is imported when a run begins
and by no other command. conf/base/mlflow.yml says where the log is kept.
"""

from __future__ import annotations

import atexit
import logging
import os
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

from kedro.config import AbstractConfigLoader, MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline

from diffground import tracking
from diffground.adapters import run_log
from diffground.adapters.config_loader import DEFAULT_ENV, MachineConfigLoader
from diffground.adapters.datasets import DataFolderDataset, FolderDataset
from diffground.adapters.hooks.results import file_of, is_first_process, layer
from diffground.config import Config
from diffground.provenance import hardware

log = logging.getLogger(__name__)

NAME_LENGTH = 100  # characters of a run's name that say what was changed


class RunLogConfig(Config):
    """conf/<env>/mlflow.yml."""

    enabled: bool
    tracking_uri: str  # sqlite paths are relative to the project; MLFLOW_TRACKING_URI wins
    experiment: str
    system_metrics: bool = False  # CPU, memory and (with nvidia-ml-py) GPU use over time

    @property
    def store(self) -> str | None:
        """MLflow's tracking URI for this process; None where nothing is to be logged."""
        if not self.enabled or os.environ.get("DIFFGROUND_RUN_LOG") == "0":
            return None
        return os.environ.get("MLFLOW_TRACKING_URI") or self.tracking_uri


class OneWriterHook:
    """In a distributed run only rank 0 writes the catalog's files; other processes keep the values.

    Else one process would read a file that another is just writing. Made folders need no such care:
    whoever makes one locks it. The others warn, and say nothing else.
    """

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Lets the outputs of a process that is not rank 0 stay in memory."""
        if is_first_process():
            return
        logging.disable(logging.INFO)  # said once; what goes wrong is said by whom it befalls
        for name in sorted(pipeline.all_outputs()):
            dataset = catalog.get(name)
            if dataset is not None and not isinstance(dataset, FolderDataset | MemoryDataset):
                catalog[name] = MemoryDataset(copy_mode="assign")

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Lets it speak again."""
        logging.disable(logging.NOTSET)

    @hook_impl
    def on_pipeline_error(self) -> None:
        """The same."""
        logging.disable(logging.NOTSET)


class RunLogHook:
    """Opens an MLflow run for every ``kedro run`` and writes down what it was and what came out.

    Parameters are those that the pipeline reads, flattened (``png.optimizer.lr``). Numbers in saved
    JSON become metrics, unless the catalog says ``metadata: {run_log: file}``: counts of a dataset
    are no figures of a run. That file, and what is saved in the reporting layer, becomes an
    artifact. The run is
    called by its pipelines and by what differs from the configuration of its environment. Processes
    of a distributed run other than rank 0 log nothing.

    Environment: ``MLFLOW_TRACKING_URI`` names another store, ``DIFFGROUND_PARENT_RUN`` is the id of
    the run that this one is part of, and ``DIFFGROUND_RUN_LOG=0`` turns the log off.
    """

    def __init__(self) -> None:
        self._project = Path()
        self._config: RunLogConfig | None = None
        self._changes: dict[str, str] = {}
        self._catalog: DataCatalog | None = None
        self._run: run_log.MlflowTracker | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Reads the configuration; nothing is imported or opened yet."""
        self._project = Path(context.project_path)
        self._config = RunLogConfig.model_validate(dict(context.config_loader["mlflow"]))
        self._changes = _changes(context.config_loader)

    @hook_impl
    def before_pipeline_run(
        self, run_params: dict[str, Any], pipeline: Pipeline, catalog: DataCatalog
    ) -> None:
        """Opens the run and installs its tracker."""
        config = self._config
        store = None if config is None or not is_first_process() else config.store
        if config is None or store is None:
            return
        names = sorted(run_params["pipeline_names"] or ["__default__"])
        env = str(run_params["env"] or DEFAULT_ENV)
        keys = sorted(name for name in pipeline.inputs() if name.startswith("params:"))
        params = {key.removeprefix("params:"): catalog.load(key) for key in keys}
        changes = {k: v for k, v in self._changes.items() if k.partition(".")[0] in params}
        self._catalog = catalog
        self._run = run_log.MlflowTracker.start(
            uri=store,
            experiment=config.experiment,
            name=run_name(names, env, changes),
            project=self._project,
            parent=os.environ.get(run_log.PARENT_RUN),
            system_metrics=config.system_metrics,
        )
        atexit.register(self._end, "KILLED")  # interrupted: no closing hook is called
        tracking.set_tracker(self._run)
        self._run.log_params(run_log.flatten(params))
        self._run.set_tags(
            {
                **run_log.code_version(self._project),
                "env": env,
                "pipelines": ",".join(names),
                "run_id": str(run_params["run_id"]),
                "device": hardware(),
            }
        )
        self._run.log_dict(run_params, "run.json")

    @hook_impl
    def after_dataset_loaded(self, dataset_name: str) -> None:
        """Notes which model and which data the run used."""
        self._note_folder(dataset_name)

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, data: Any) -> None:
        """Logs the numbers of saved JSON, the files of the reporting layer, and made folders."""
        if self._run is None or self._catalog is None:
            return
        dataset = self._catalog.get(dataset_name)
        metadata = getattr(dataset, "metadata", None) or {}
        figures = (
            type(dataset).__name__.endswith("JSONDataset") and metadata.get("run_log") != "file"
        )
        if figures and isinstance(data, dict):
            self._run.log_metrics(tracking.numbers(data, dataset_name))
        path = file_of(dataset)
        if path is not None and (layer(dataset) == "reporting" or "run_log" in metadata):
            self._run.log_artifact(path, "reporting")
        self._note_folder(dataset_name)

    @hook_impl
    def after_pipeline_run(self) -> None:
        """Closes the run."""
        self._end("FINISHED")

    @hook_impl
    def on_pipeline_error(self, error: Exception) -> None:
        """Closes the run as failed, with the reason."""
        if self._run is not None:
            self._run.set_tags({"error": f"{type(error).__name__}: {error}"})
        self._end("FAILED")

    def _note_folder(self, name: str) -> None:
        dataset = self._catalog.get(name) if self._run and self._catalog else None
        if self._run is None or not isinstance(dataset, FolderDataset):
            return
        made = layer(dataset) in ("feature", "model_input", "model_output")
        kind = "data" if made or isinstance(dataset, DataFolderDataset) else "model"
        self._run.set_tags({f"{kind}.{name}": dataset.fingerprint()})
        if isinstance(dataset, DataFolderDataset) and (manifest := dataset.manifest()):
            self._run.log_dict(manifest.model_dump(), f"data/{name}.json")

    def _end(self, status: str) -> None:
        if self._run is not None:
            run, self._run = self._run, None
            atexit.unregister(self._end)
            tracking.set_tracker(None)
            run.end(status)
            if status == "FINISHED":
                log.info("`make mlflow` shows the run beside others")


def run_name(pipelines: Sequence[str], env: str, changes: Mapping[str, str]) -> str:
    """What tells a run from others: ``png_train train.seed=1``.

    Changes of the pipeline's own parameters come first, without their first part, which its name
    says, and only so many changes are named as fit.
    """
    known = {part for name in pipelines for part in (name, name.partition("_")[0])}
    own, others = [], []
    for key, value in changes.items():
        top, _, rest = key.partition(".")
        if rest and top in known:
            own.append(f"{rest}={value}")
        else:
            others.append(f"{key}={value}")
    words = own + others
    shown: list[str] = []
    while words and len(" ".join([*shown, words[0]])) <= NAME_LENGTH:
        shown.append(words.pop(0))
    more = [f"and {len(words)} more"] if words else []
    place = [env] if env != DEFAULT_ENV else []
    return " ".join(["+".join(pipelines), *place, *shown, *more])


def _changes(loader: AbstractConfigLoader) -> dict[str, str]:
    """Parameters that are other than the repository's files say for the environment; flattened."""
    assert isinstance(loader, MachineConfigLoader)
    try:
        given = run_log.flatten(loader["parameters"])
        usual = run_log.flatten(loader.usual_parameters())
    except MissingConfigException:
        return {}
    return {key: value for key, value in given.items() if usual.get(key) != value}
