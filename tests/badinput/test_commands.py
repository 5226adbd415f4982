"""Bad commands and configurations end with a message: no traceback, and nothing is left behind."""

from __future__ import annotations

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import yaml
from click.testing import CliRunner, Result
from corpus import SECONDS, spoil, within
from kedro.framework.cli.cli import KedroCLI

from diffground.console import main
from diffground.io.images import write_png

TYPED = yaml.safe_load(Path(__file__).with_name("commands.yml").read_text("utf-8"))
TOY = """
    from kedro.pipeline import Node, Pipeline
    from diffground.config import Config

    class Inner(Config):
        lr: float

    class ToyConfig(Config):
        steps: int
        inner: Inner

    def toy(config: ToyConfig) -> dict:
        return {"steps": config.steps}

    def create_pipeline():
        return Pipeline([Node(toy, "params:toy", "toy_out", name="toy")])
"""
CONF = {
    "conf/base/parameters.yml": "toy: {steps: 3, inner: {lr: 0.1}}\n",
    "conf/base/catalog.yml": "toy_out: {type: json.JSONDataset, filepath: data/toy.json}\n"
    "more_out: {type: json.JSONDataset, filepath: data/more.json}\n",
}


def spelled(case: dict[str, Any]) -> str:
    return " ".join([*case.get("args", ()), *map(str, case.get("files", {}).values())])


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    write_png(tmp_path / "photo.png", np.full((16, 16, 3), 90, np.uint8))
    for name, action in {
        "empty.png": {"text": ""},
        "text.txt": {"text": "a text"},
        "own/own.txt": {"text": "of one's own"},
        "deep.json": {"repeat": ["[", 100_000]},
        "bomb.png": {"claims": [60_000, 60_000]},
    }.items():
        spoil(tmp_path / name, action, tmp_path)
    monkeypatch.chdir(tmp_path)
    return tmp_path


def check(result: Result, case: dict[str, Any]) -> None:
    said = " ".join(result.output.split())
    assert result.exit_code == case.get("code", 1), result.output or result.exception
    assert isinstance(result.exception, SystemExit), result.exception
    assert case["says"] in said, said
    assert "Traceback" not in said and len(said) < 4000


@pytest.mark.parametrize("case", TYPED["diffground"], ids=spelled)
def test_diffground(case: dict[str, Any], place: Path) -> None:
    before = sorted(place.rglob("*"))
    with within(3 * SECONDS):
        check(CliRunner().invoke(main, case["args"]), case)
    after = [path for path in place.rglob("*") if path.suffix != ".lock"]
    assert sorted(after) == before, "something is left that looks like a result"


@pytest.mark.parametrize("case", TYPED["kedro"], ids=spelled)
def test_kedro(case: dict[str, Any], toy_project: Callable[..., Path]) -> None:
    project = toy_project(TOY, CONF | case.get("files", {}))
    cli, before = KedroCLI(project), Path.cwd()
    os.chdir(project)
    try:
        with within(3 * SECONDS):
            result = CliRunner().invoke(cli, ["run", *case.get("args", ())])
    finally:
        os.chdir(before)
    check(result, case)
    assert not (project / "data").exists() and not (project / "it ran").exists()
