"""The MLflow hook, on a real sqlite store and real Kedro runs."""

from __future__ import annotations

import os
import shutil
import sqlite3
import subprocess
import sys
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from pathlib import Path
from typing import Any
from urllib.parse import unquote

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from diffground import tracking
from diffground.adapters import run_journal
from diffground.adapters.hooks.runs import run_name
from diffground.adapters.run_log import MlflowTracker, code_version, flatten
from diffground.adapters.run_store import resolve_uri
from diffground.config import Config
from diffground.tracking import numbers

PIPELINE = """
    import os, signal
    from pathlib import Path
    from kedro.pipeline import Node, Pipeline
    from diffground.config import Config
    from diffground.store.manifest import make_folder
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
        if config.fail in ("SIGINT", "SIGTERM", "SIGKILL"):
            # A shell makes the jobs in its background ignore the signal.
            signal.signal(signal.SIGINT, signal.default_int_handler)
            os.kill(os.getpid(), getattr(signal, config.fail))
        return {"overall": 60.5, "by": {"things": 50, "stuff": None}, "protocol": "original"}

    def create_pipeline():
        return Pipeline([
            Node(make, ["params:toy", "data_folder"], "data", name="make"),
            Node(train, ["params:toy", "data", "model"], "toy_metrics", name="train"),
            Node(lambda: {"images": 7}, None, "toy_counts", name="count"),
        ])
"""
FILES = {
    "conf/base/parameters.yml": "toy: {steps: 3, inner: {lr: 0.1}}\n",
    "conf/base/catalog.yml": """
        data_folder: {type: diffground.adapters.datasets.TargetFolderDataset, filepath: data/world}
        data: {type: diffground.adapters.datasets.DataFolderDataset, filepath: data/world}
        model: {type: diffground.adapters.datasets.ModelFolderDataset, filepath: models/sd}
        toy_metrics:
          type: json.JSONDataset
          filepath: data/metrics.json
          metadata: {kedro-viz: {layer: reporting}}
        toy_counts:
          type: json.JSONDataset
          filepath: data/counts.json
          metadata: {run_log: file, kedro-viz: {layer: reporting}}
    """,
    "models/sd/config.json": "{}",
}

ENV = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path), "DIFFGROUND_RUN_LOG": "1"}


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


@contextmanager
def locked(database: Path) -> Iterator[None]:
    """Somebody else writes to the database, and does not end."""
    with closing(sqlite3.connect(database)) as db:
        db.execute("BEGIN EXCLUSIVE")
        yield
        db.rollback()


def test_names_tell_runs_apart() -> None:
    changes = {"world.size": "64", "png.train.seed": "1"}
    assert run_name(["png_train"], "mini", {}) == "png_train"
    assert run_name(["png_train"], "paper", changes) == "png_train paper train.seed=1 world.size=64"
    many = {f"png.x{i:02d}": "1000" for i in range(20)}
    name = run_name(["png_train", "png_eval"], "mini", many)
    assert name.startswith("png_train+png_eval x00=1000 x01=1000 ") and len(name) < 140
    assert name.endswith(" x10=1000 and 9 more")


def test_names_say_what_differs_from_the_configuration(project: Path) -> None:
    (project / "conf/local/parameters.yml").write_text("toy: {inner: {lr: 0.5}}\n")
    run(project, steps=3)  # as the configuration has it
    assert [logged.info.run_name for logged in runs(project)] == ["toy inner.lr=0.5"]


def test_a_run_is_written_down(project: Path) -> None:
    from mlflow.tracking import MlflowClient

    run(project, steps=4)
    (logged,) = runs(project)
    assert logged.info.status == "FINISHED" and logged.info.run_name == "toy steps=4"
    # Flattened, with defaults, and only what the pipeline reads.
    assert logged.data.params == {"toy.steps": "4", "toy.inner.lr": "0.1", "toy.fail": ""}
    assert logged.data.metrics["toy_metrics/overall"] == 60.5
    assert logged.data.metrics["toy_metrics/by/things"] == 50
    assert "toy_metrics/by/stuff" not in logged.data.metrics
    assert not [name for name in logged.data.metrics if name.startswith("toy_counts")]

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    history = client.get_metric_history(logged.info.run_id, "train/loss")
    assert [(m.step, m.value) for m in history] == [(i, 1 / (i + 1)) for i in range(4)]

    tags = logged.data.tags
    head = subprocess.run(
        ["git", "-C", str(project), "rev-parse", "HEAD"], capture_output=True, text=True, check=True
    ).stdout.strip()
    assert tags["git.commit"] == tags["mlflow.source.git.commit"] == head
    assert tags["git.dirty"] == "false" and tags["version"] and tags["env"] == "mini"
    assert tags["device"].startswith(("cpu", "cuda", "mps"))
    assert len(tags["model.model"]) == len(tags["data.data"]) == 16

    files = Path(logged.info.artifact_uri.removeprefix("file://"))
    assert files.is_relative_to(project / "mlruns")
    assert {p.relative_to(files).as_posix() for p in files.rglob("*.json")} == {
        "run.json",
        "data/data.json",
        "reporting/metrics.json",
        "reporting/counts.json",
    }
    assert not tracking.get_tracker().keeps


def test_a_failure_is_marked(project: Path) -> None:
    with pytest.raises(RuntimeError, match="out of memory"):
        run(project, fail="error")
    (logged,) = runs(project)
    assert logged.info.status == "FAILED"
    assert logged.data.tags["error"] == "RuntimeError: out of memory"
    assert not tracking.get_tracker().keeps


@pytest.mark.slow
@pytest.mark.parametrize("signal", ["SIGINT", "SIGTERM", "SIGKILL"])
def test_an_interruption_is_marked(project: Path, signal: str) -> None:
    """By the process itself, or where it cannot, by the next run."""
    command = [sys.executable, "-m", "kedro", "run", "--pipelines", "toy"]
    command += ["--params", f"toy.fail={signal}"]
    done = subprocess.run(command, cwd=project, env=ENV, capture_output=True, check=False)
    codes = {"SIGINT": 1, "SIGTERM": 128 + 15, "SIGKILL": -9}
    assert done.returncode == codes[signal], done.stderr
    if signal == "SIGKILL":
        assert [logged.info.status for logged in runs(project)] == ["RUNNING"]
        run(project)
    found = {logged.info.run_name: logged.info.status for logged in runs(project)}
    assert found.pop(f"toy fail={signal}") == "KILLED", done.stderr
    assert found == ({"toy": "FINISHED"} if signal == "SIGKILL" else {})
    assert not list((project / "mlruns/.open").glob("*"))


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


def start(project: Path, name: str = "x") -> MlflowTracker:
    return MlflowTracker.start(
        uri="sqlite:///mlflow.db", experiment="diffground", name=name, project=project
    )


def test_a_busy_store_delays_the_log_and_not_the_run(
    project: Path, monkeypatch: pytest.MonkeyPatch, caplog: pytest.LogCaptureFixture
) -> None:
    """Metrics and files of a locked moment are there in the end, children too."""
    tracker = start(project)
    tracker.log_metrics({"loss": 3.0}, 1)
    figure = project / "figure.txt"
    with locked(project / "mlflow.db"):
        monkeypatch.setattr(run_journal, "RETRY", 0.2)
        tracker.log_metrics({"loss": 2.0}, 2)
        figure.write_text("first")
        tracker.log_artifact(figure, "reporting")
        figure.write_text("second")
        with tracker.child("row", {"seed": 1}) as child:
            child.log_metrics({"loss": 1.0}, 3)
    assert "the run log cannot be written" in caplog.text and "locked" in caplog.text
    tracker.end("FINISHED")
    child_run, logged = runs(project)
    assert (logged.info.status, logged.data.metrics) == ("FINISHED", {"loss": 2.0})
    files = Path(logged.info.artifact_uri.removeprefix("file://"))
    assert (files / "reporting/figure.txt").read_text() == "first"
    assert (child_run.info.run_name, child_run.info.status) == ("row", "FINISHED")
    assert child_run.data.params == {"seed": "1"} and child_run.data.metrics == {"loss": 1.0}
    assert child_run.data.tags["mlflow.parentRunId"] == logged.info.run_id
    assert not list((project / "mlruns/.open").glob("*"))


def test_what_could_not_be_logged_is_logged_by_the_next_run(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """The store is locked from the first moment to the last."""
    with locked(project / "mlflow.db"):
        run(project, steps=2)
    assert "the next run writes to the run log what is kept in" in caplog.text
    assert (project / "data/metrics.json").exists() and runs(project) == []
    run(project, steps=1)
    found = {logged.info.run_name: logged for logged in runs(project)}
    late = found["toy steps=2"]
    assert late.info.status == found["toy steps=1"].info.status == "FINISHED"
    assert late.data.params["toy.steps"] == "2"
    assert late.data.metrics["train/loss"] == 0.5 and late.data.metrics["toy_metrics/overall"]
    assert late.info.end_time < found["toy steps=1"].info.start_time
    assert not list((project / "mlruns/.open").glob("*"))


def test_what_no_store_takes_holds_nothing_up(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    tracker = start(project)
    tracker.log_params({"x": "1"})
    tracker.log_params({"x": "2"})  # MLflow refuses to change a parameter
    tracker.log_metrics({"loss": 3.0}, 1)
    tracker.end("FINISHED")
    (logged,) = runs(project)
    assert logged.data.params == {"x": "1"} and logged.data.metrics == {"loss": 3.0}
    assert "the run log refuses params" in caplog.text


@pytest.mark.skipif(os.geteuid() == 0, reason="root may write everywhere")
def test_a_folder_that_cannot_be_written(project: Path, caplog: pytest.LogCaptureFixture) -> None:
    (project / "mlruns").mkdir()
    (project / "mlruns").chmod(0o500)
    run(project)
    assert (project / "data/metrics.json").exists()


def test_a_live_run_is_left_alone(project: Path) -> None:
    tracker = start(project, "first")
    start(project, "second").end("FINISHED")
    assert {r.info.run_name: r.info.status for r in runs(project)} == {
        "first": "RUNNING",
        "second": "FINISHED",
    }
    tracker.end("FINISHED")


@pytest.mark.slow
def test_first_runs_at_once(toy_project: Callable[..., Path]) -> None:
    """Two make the store together; a third was killed while it made it."""
    project = toy_project(PIPELINE, FILES)
    half = project / "mlflow.db.0123.part"
    half.write_text("half a database")
    command = [sys.executable, "-m", "kedro", "run"]
    pair = [
        subprocess.Popen(command, cwd=project, env=ENV, stderr=subprocess.PIPE) for _ in range(2)
    ]
    for process in pair:
        _, errors = process.communicate()
        assert process.returncode == 0, errors
    assert [logged.info.status for logged in runs(project)] == ["FINISHED"] * 2
    assert not half.exists()


def test_a_store_that_was_left_half_made_is_begun_anew(
    project: Path, caplog: pytest.LogCaptureFixture
) -> None:
    """As MLflow leaves one behind that is killed between two versions of the tables."""
    with closing(sqlite3.connect(project / "mlflow.db")) as db, db:
        db.execute("UPDATE alembic_version SET version_num = '451aebb31d03'")
        db.execute("DROP TABLE experiments")
    os.utime(project / "mlflow.db", (0, 0))  # nobody is making it at this moment
    run(project)
    assert [logged.info.status for logged in runs(project)] == ["FINISHED"]
    assert "was half made" in caplog.text and list(project.glob("mlflow.db.torn-*"))


def test_a_copied_project_keeps_its_own_files(project: Path, tmp_path: Path) -> None:
    run(project)
    copy = tmp_path / "a copy"
    shutil.copytree(project, copy)
    shutil.rmtree(project / "mlruns")
    tracker = start(copy, "in the copy")
    tracker.log_dict({"a": 1}, "a.json")
    tracker.end("FINISHED")
    assert not (project / "mlruns").exists()
    for logged in runs(copy):
        files = Path(unquote(logged.info.artifact_uri.removeprefix("file://")))
        assert files.is_relative_to(copy / "mlruns") and any(files.rglob("*.json"))


@pytest.mark.slow
def test_the_server_starts_without_deprecations(root: Path) -> None:
    """With the filter that `make mlflow` hands to its workers, which each said it."""
    (line,) = [
        line
        for line in (root / "Makefile").read_text().splitlines()
        if line.startswith("MLFLOW_WARNINGS = ")
    ]
    filtered = {"PYTHONWARNINGS": line.partition(" = ")[2]}
    command = [sys.executable, "-c", "import mlflow.server.fastapi_app"]
    done = subprocess.run(command, env=ENV | filtered, capture_output=True, text=True, check=True)
    assert "Deprecat" not in done.stderr


def test_many_parameters_fit(project: Path) -> None:
    tracker = start(project)
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
