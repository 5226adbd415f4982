"""The MLflow hook, on a real sqlite store and real Kedro runs."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from diffground import tracking
from diffground.config import Config
from diffground.reporting.run_log import MlflowTracker, code_version, flatten, numbers, resolve_uri

PIPELINE = """
    import os, signal
    from pathlib import Path
    from kedro.pipeline import Node, Pipeline
    from diffground.config import Config
    from diffground.manifest import make_folder
    from diffground.tracking import get_tracker

    class Inner(Config):
        lr: float

    class ToyConfig(Config):
        steps: int
        inner: Inner
        fail: str = ""

    def make(config: ToyConfig, folder: Path) -> Path:
        make_folder(folder, config, lambda partial: (partial / "a.txt").write_text("a"))
        return folder

    def train(config: ToyConfig, folder: Path, model: Path) -> dict:
        for step in range(config.steps):
            get_tracker().log_metrics({"train/loss": 1 / (step + 1)}, step)
        if config.fail == "error":
            raise RuntimeError("out of memory")
        if config.fail == "interrupt":
            # A shell makes the jobs in its background ignore the signal.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.kill(os.getpid(), signal.SIGINT)
        return {"overall": 60.5, "by": {"things": 50, "stuff": None}, "protocol": "original"}

    def create_pipeline():
        return Pipeline([
            Node(make, ["params:toy", "data_folder"], "data", name="make"),
            Node(train, ["params:toy", "data", "model"], "toy_metrics", name="train"),
        ])
"""
FILES = {
    "conf/base/parameters.yml": "toy: {steps: 3, inner: {lr: 0.1}}\nunused: 1\n",
    "conf/base/catalog.yml": """
        data_folder: {type: diffground.datasets.TargetFolderDataset, filepath: data/world}
        data: {type: diffground.datasets.DataFolderDataset, filepath: data/world}
        model: {type: diffground.datasets.ModelFolderDataset, filepath: models/sd}
        toy_metrics:
          type: json.JSONDataset
          filepath: data/metrics.json
          metadata: {kedro-viz: {layer: reporting}}
    """,
    "models/sd/config.json": "{}",
}


@pytest.fixture(scope="module")
def empty_store(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A database with MLflow's tables: making them takes seconds, so it is done once and copied."""
    from mlflow.tracking import MlflowClient

    path = tmp_path_factory.mktemp("store") / "mlflow.db"
    MlflowClient(f"sqlite:///{path}").search_experiments()
    return path


@pytest.fixture
def project(
    toy_project: Callable[..., Path], empty_store: Path, monkeypatch: pytest.MonkeyPatch
) -> Path:
    monkeypatch.setenv("DIFFGROUND_RUN_LOG", "1")
    monkeypatch.delenv("MLFLOW_TRACKING_URI", raising=False)
    monkeypatch.delenv("RANK", raising=False)
    project = toy_project(PIPELINE, FILES)
    shutil.copy(empty_store, project / "mlflow.db")
    git = ["git", "-C", str(project), "-c", "user.name=t", "-c", "user.email=t@example.org"]
    subprocess.run([*git, "init", "-q"], check=True)
    (project / ".gitignore").write_text("data\nmlflow.db*\nmlruns\n__pycache__\n")
    subprocess.run([*git, "add", "-A"], check=True)
    subprocess.run([*git, "commit", "-qm", "toy"], check=True)
    return project


def run(project: Path, **params: Any) -> None:
    bootstrap_project(project)
    with KedroSession.create(project, runtime_params={"toy": params}) as session:
        session.run(pipeline_names=["toy"])


def runs(project: Path) -> list[Any]:
    """The store's runs, newest first."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    experiment = client.get_experiment_by_name("diffground")
    return list(client.search_runs([experiment.experiment_id])) if experiment else []


def test_a_run_is_written_down(project: Path) -> None:
    from mlflow.tracking import MlflowClient

    run(project, steps=4)
    (logged,) = runs(project)
    assert logged.info.status == "FINISHED" and logged.info.run_name == "toy"
    # Flattened, with defaults, and only what the pipeline reads.
    assert logged.data.params == {"toy.steps": "4", "toy.inner.lr": "0.1", "toy.fail": ""}
    assert logged.data.metrics["toy_metrics/overall"] == 60.5
    assert logged.data.metrics["toy_metrics/by/things"] == 50
    assert "toy_metrics/by/stuff" not in logged.data.metrics

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    history = client.get_metric_history(logged.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(i, 1 / (i + 1)) for i in range(4)]

    tags = logged.data.tags
    head = subprocess.run(
        ["git", "-C", str(project), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert tags["git.commit"] == tags["mlflow.source.git.commit"] == head
    assert tags["git.dirty"] == "false" and tags["version"] and tags["env"] == "local"
    assert tags["device"].startswith(("cpu", "cuda", "mps"))
    assert len(tags["model.model"]) == len(tags["data.data"]) == 16

    files = Path(logged.info.artifact_uri.removeprefix("file://"))
    assert files.is_relative_to(project / "mlruns")
    assert {p.relative_to(files).as_posix() for p in files.rglob("*.json")} == {
        "run.json",
        "data/data.json",
        "reporting/metrics.json",
    }
    assert isinstance(tracking.get_tracker(), tracking.NullTracker)


def test_a_failure_is_marked(project: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        run(project, fail="error")
    (logged,) = runs(project)
    assert logged.info.status == "FAILED"
    assert logged.data.tags["error"] == "RuntimeError: out of memory"
    assert isinstance(tracking.get_tracker(), tracking.NullTracker)


@pytest.mark.slow
def test_an_interruption_is_marked(project: Path) -> None:
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-m", "kedro", "run", "--params", "toy.fail=interrupt"]
    done = subprocess.run(command, cwd=project, env=env, capture_output=True, check=False)
    assert done.returncode != 0
    assert [logged.info.status for logged in runs(project)] == ["KILLED"], done.stderr


def test_changes_in_no_commit_and_parents(project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    run(project)
    parent = runs(project)[0].info.run_id
    monkeypatch.setenv("DIFFGROUND_PARENT_RUN", parent)
    (project / "conf/base/parameters.yml").write_text("toy: {steps: 1, inner: {lr: 0.3}}\n")
    run(project)
    child = runs(project)[0]
    assert child.data.tags["git.dirty"] == "true"
    assert child.data.tags["mlflow.parentRunId"] == parent
    assert child.data.params["toy.inner.lr"] == "0.3"


@pytest.mark.parametrize("variable", ["DIFFGROUND_RUN_LOG=0", "RANK=1", "mlflow.yml"])
def test_can_be_turned_off(project: Path, monkeypatch: pytest.MonkeyPatch, variable: str) -> None:
    if variable == "mlflow.yml":
        (project / "conf/local/mlflow.yml").write_text("enabled: false\n")
    else:
        monkeypatch.setenv(*variable.split("="))
    run(project)
    assert runs(project) == []


def test_environment_names_the_store(
    project: Path, monkeypatch: pytest.MonkeyPatch, empty_store: Path, tmp_path: Path
) -> None:
    (tmp_path / "other").mkdir()
    shutil.copy(empty_store, tmp_path / "other" / "mlflow.db")
    monkeypatch.setenv("MLFLOW_TRACKING_URI", f"sqlite:///{tmp_path}/other/mlflow.db")
    run(project)
    assert runs(project) == [] and len(runs(tmp_path / "other")) == 1


def test_many_parameters_fit(project: Path) -> None:
    tracker = MlflowTracker.start(
        uri="sqlite:///mlflow.db", experiment="diffground", name="x", project=project
    )
    tracker.log_params({f"p{i}[{i}]": "x" * 7000 for i in range(250)})
    tracker.log_artifact(project / "conf", "conf")
    tracker.end("FINISHED")
    (logged,) = runs(project)
    assert len(logged.data.params) == 250 and len(logged.data.params["p7_7_"]) == 6000


def test_flatten_and_numbers() -> None:
    class Inner(Config):
        betas: tuple[float, float] = (0.9, 0.99)

    assert flatten({"a": {"b": 1, "c": Inner()}, "d": None, "e": {}}) == {
        "a.b": "1",
        "a.c.betas": "[0.9, 0.99]",
        "d": "None",
        "e": "{}",
    }
    data = {"a": 1, "b": {"c": 0.5, "d": True, "e": "x", "f": [1]}, "g": float("nan")}
    assert numbers(data, "m") == {"m/a": 1.0, "m/b/c": 0.5}
    assert numbers({str(i): i for i in range(10_000)}, "m") == {}


def test_uris_and_versions(tmp_path: Path) -> None:
    assert resolve_uri("sqlite:///mlflow.db", Path("/p")) == "sqlite:////p/mlflow.db"
    assert resolve_uri("sqlite:////abs/mlflow.db", Path("/p")) == "sqlite:////abs/mlflow.db"
    assert resolve_uri("http://host:5000", Path("/p")) == "http://host:5000"
    assert code_version(tmp_path)["git.commit"] == "unknown"
