"""``kedro run --pipelines png_train``, as a new user starts it: what it says, logs and asks for."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from dataclasses import dataclass
from pathlib import Path

import pytest
from watching import environment, reached

PARAMS = ("world.coco_panoptic.train=16", "world.coco_panoptic.val=8")
PARAMS += ("png.train.max_steps=2", "png.train.warmup_steps=1", "png.train.seed=1")


@dataclass(frozen=True)
class Job:
    """A finished run."""

    project: Path
    output: str
    reached: list[str]  # tries to reach another machine


@pytest.fixture(scope="module")
def job(root: Path, tmp_path_factory: pytest.TempPathFactory) -> Job:
    folder = tmp_path_factory.mktemp("job")
    project = folder / "project"
    project.mkdir()
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(root / name, project / name)
    shutil.copytree(root / "conf", project / "conf", ignore=shutil.ignore_patterns("local"))
    (project / "conf/local").mkdir()
    (project / "src").mkdir()
    (project / "src/diffground").symlink_to(root / "src/diffground")
    (project / "data/06_models").mkdir(parents=True)
    for model in (root / "data/06_models").glob("mini-*"):
        (project / "data/06_models" / model.name).symlink_to(model)
    done = subprocess.run(
        [sys.executable, "-m", "kedro", "run", "--pipelines", "png_train"]
        + ["--params", ",".join(PARAMS)],
        cwd=project,
        env=environment(folder, root),
        capture_output=True,
        text=True,
        check=False,
    )
    output = done.stdout + done.stderr
    assert done.returncode == 0, output
    return Job(project, output, reached(folder))


@pytest.mark.slow
def test_nobody_is_asked_or_told(job: Job) -> None:
    assert job.reached == []


def test_the_watch_sees(root: Path, tmp_path: Path) -> None:
    """Else the test above would say nothing."""
    code = "import socket; socket.create_connection(('config.example.org', 443))"
    env = environment(tmp_path, root)
    subprocess.run([sys.executable, "-c", code], env=env, capture_output=True, check=False)
    assert reached(tmp_path) == ["getaddrinfo: config.example.org"]


@pytest.mark.parametrize(
    ("said", "becomes"), [("", "true"), ("1", "true"), ("true", "true"), ("false", "false")]
)
def test_settings_speak_mlflows_language(said: str, becomes: str) -> None:
    """It takes DO_NOT_TRACK=1 for leave to track."""
    names = ("DO_NOT_TRACK", "MLFLOW_DISABLE_TELEMETRY")
    env = os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)} | dict.fromkeys(names, said)
    code = f"import os, diffground.settings; print(*(os.environ[name] for name in {names}))"
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.stdout.split() == [becomes, becomes], done.stderr


@pytest.mark.slow
def test_it_ends_with_where_its_results_are(job: Job) -> None:
    end = job.output[job.output.index("png_train is done after") :]
    assert f"Its results, in {job.project}:" in " ".join(end.split())
    for name in ("png_metrics.json", "png_overlays.png", "png_recall_curve.png"):
        assert name in end and (job.project / "data/08_reporting" / name).exists()
    (weights,) = (job.project / "data/06_models/png").glob("*/png.safetensors")
    assert f"data/06_models/png: {weights.parent.name}" in end
    assert "`make viz`" in end and "`make mlflow`" in job.output


@pytest.mark.slow
def test_it_is_quiet(job: Job) -> None:
    assert "\r" not in job.output and "%|" not in job.output
    assert "png both: 2 of 2" in job.output
    assert len(job.output.splitlines()) < 100


@pytest.mark.slow
def test_its_run_can_be_compared(job: Job) -> None:
    """Counts of the data are a file; the first metrics are results."""
    from mlflow.tracking import MlflowClient

    client = MlflowClient(f"sqlite:///{job.project}/mlflow.db")
    experiment = client.get_experiment_by_name("diffground")
    assert experiment is not None
    (run,) = client.search_runs([experiment.experiment_id])
    name = run.info.run_name
    assert name is not None and name.startswith("png_train train.")
    assert "train.seed=1" in name and "train.max_steps=2" in name and "world." in name
    metrics = sorted(run.data.metrics)
    assert not [metric for metric in metrics if "doctor" in metric]
    assert metrics[0].startswith("png_metrics/ar/")
    files = Path(run.info.artifact_uri.removeprefix("file://"))
    assert (files / "reporting/png_doctor.json").exists()
