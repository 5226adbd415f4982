"""Pseudo masks with data and outputs in a bucket: killed, and gone on with on another machine."""

from __future__ import annotations

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
import tiny_png
import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from s3_server import empty_bucket, serving
from tiny_text2mask import config
from tiny_world import SMALL

from diffground.world.config import WorldConfig

MAPS, MASKS = "04_feature/text2mask", "05_model_input/text2mask"
# A run that waits to be killed before its sixth map.
DOOMED = """
from doomed import stops_after
from kedro.framework.cli import main
from diffground.papers.text2mask.text_to_mask import TextToMask
TextToMask.maps = stops_after(5, TextToMask.maps)
main()
"""
NOTES = {".jsonl": "dates of images", "manifest.json": "dates of making"}


@pytest.fixture
def server(monkeypatch: pytest.MonkeyPatch) -> Iterator[None]:
    with serving() as environment:
        for name, value in environment.items():
            monkeypatch.setenv(name, value)
        empty_bucket()
        yield


@pytest.fixture
def machine(root: Path, tmp_path: Path) -> Callable[..., Path]:
    """``machine("a", data)`` is a checkout whose root of data layers is ``data``."""

    def make(name: str, data: str) -> Path:
        project = tmp_path / name
        project.mkdir()
        for file in ("pyproject.toml", ".telemetry"):
            shutil.copy(root / file, project / file)
        shutil.copytree(root / "conf", project / "conf", ignore=shutil.ignore_patterns("local"))
        (project / "src").mkdir()
        (project / "src/diffground").symlink_to(root / "src/diffground")
        own = {
            "globals": {
                "data": data,
                "voc2012": f"{data}/01_raw/voc2012",
                "text2mask_diffusion": str(tiny_png.backbone().folder),
                "diffusion": str(tiny_png.backbone().folder),
            },
            "remote": {"push_every": 0.2},
            "parameters": {
                "text2mask": config(attention={"noises": 8}).model_dump(mode="json"),
                "world": WorldConfig.model_validate(SMALL).model_dump(mode="json"),
            },
        }
        (project / "conf/local").mkdir()
        for file, content in own.items():
            (project / f"conf/local/{file}.yml").write_text(yaml.safe_dump(content))
        return project

    return make


def run(project: Path) -> None:
    bootstrap_project(project)
    with KedroSession.create(project) as session:
        session.run(pipeline_names=["pseudo_labels"])


def contents(folder: Path) -> dict[str, bytes]:
    """What was made, without what says when."""
    return {
        str(path.relative_to(folder)): path.read_bytes()
        for layer in (MAPS, MASKS)
        for path in sorted((folder / layer).rglob("*"))
        if path.is_file()
        and not path.name.startswith(".")
        and not path.name.endswith((*NOTES,))
        and not path.with_suffix("").is_dir()  # how long it took
    }


@pytest.mark.slow
def test_pseudo_labels_in_a_bucket(
    server: None, machine: Callable[..., Path], root: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed by the system with a part of the maps sent, then given again where nothing is."""
    fs = fsspec.filesystem("s3", use_listings_cache=False)
    first = machine("first", "s3://bucket/data")
    command = [sys.executable, "-c", DOOMED, "run", "--pipelines", "pseudo_labels"]
    paths = os.pathsep.join([str(root / "src"), str(root / "tests")])
    env, log = os.environ | {"PYTHONPATH": paths}, first / "log.txt"
    with log.open("w") as file:
        job = subprocess.Popen(command, cwd=first, env=env, stdout=file, stderr=file)
        sent = 0
        while sent < 3 and job.poll() is None:
            time.sleep(0.1)
            found = fs.find(f"bucket/data/{MAPS}")
            sent = sum(fs.cat(name).count(b"\n") for name in found if name.endswith(".jsonl"))
        job.send_signal(signal.SIGKILL)
        assert job.wait() == -signal.SIGKILL, log.read_text()
    assert not [name for name in fs.find("bucket/data") if name.endswith("last.json")]

    second = machine("second", "s3://bucket/data")
    monkeypatch.chdir(second)
    run(second)
    copy = second / "data/remote/s3/bucket/data"
    maps = json.loads((copy / "04_feature/text2mask_maps.json").read_text())
    assert sum(row["kept"] for row in maps) in (3, 4, 5) and maps[-1]["made"] > 0

    alone = machine("alone", "data")
    monkeypatch.chdir(alone)
    run(alone)
    made = contents(alone / "data")
    assert len(made) > 4 * 13 and contents(copy) == made
    metrics = "08_reporting/text2mask_metrics.json"
    assert (copy / metrics).read_bytes() == (alone / "data" / metrics).read_bytes()
    there = {name.removeprefix("bucket/data/"): name for name in fs.find("bucket/data")}
    assert {name: fs.cat(there[name]) for name in made} == made
    assert fs.cat(there[metrics]) == (copy / metrics).read_bytes()
