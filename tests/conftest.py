"""Shared by all tests: no network, no run log unless asked for, and small Kedro projects."""

from __future__ import annotations

import os
import shutil
import sys
import textwrap
from collections.abc import Callable, Iterator
from pathlib import Path

# Before any library reads them.
os.environ.setdefault("OMP_NUM_THREADS", "1")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["DO_NOT_TRACK"] = "true"
os.environ["DIFFGROUND_RUN_LOG"] = "0"

import pytest

from diffground.adapters.config_loader import LOADER_ARGS, ProjectConfigLoader

ROOT = Path(__file__).resolve().parents[1]


@pytest.fixture(scope="session")
def root() -> Path:
    """The repository."""
    return ROOT


@pytest.fixture(scope="session")
def conf() -> Callable[[str], ProjectConfigLoader]:
    """``conf(env)`` reads an environment of the project as the repository has it."""
    return lambda env: ProjectConfigLoader(str(ROOT / "conf"), env=env, **LOADER_ARGS)


@pytest.fixture
def toy_project(tmp_path: Path) -> Iterator[Callable[..., Path]]:
    """Makes a Kedro project with this package's settings and hooks, and one small pipeline ``toy``.

    ``toy_project(pipeline=source, files={"conf/base/catalog.yml": text, ...})`` returns its folder.
    ``source`` is a module with ``create_pipeline()``.
    """
    sys_path, modules = list(sys.path), set(sys.modules)

    def make(pipeline: str, files: dict[str, str]) -> Path:
        project = tmp_path / "project"
        package = "src/toy_project"
        written = {
            "pyproject.toml": """
                [tool.kedro]
                package_name = "toy_project"
                project_name = "toy"
                kedro_init_version = "1.7.0"
                source_dir = "src"
            """,
            ".telemetry": "consent: false",
            f"{package}/__init__.py": "",
            f"{package}/settings.py": "from diffground.settings import *\n",
            f"{package}/cli.py": "from diffground.cli import cli, run\n",
            f"{package}/pipeline_registry.py": """
                from diffground.pipeline_registry import compose

                def register_pipelines():
                    recipes = {"toy": ("toy",), "sum": ("toy", "more"), "__default__": ("toy",)}
                    return compose(recipes, "toy_project.pipelines")
            """,
            f"{package}/pipelines/__init__.py": "",
            f"{package}/pipelines/toy.py": pipeline,
            f"{package}/pipelines/more.py": """
                from kedro.pipeline import Node, Pipeline

                def create_pipeline():
                    return Pipeline([Node(len, "toy_out", "more_out", name="more")])
            """,
            **files,
        }
        for name, text in written.items():
            path = project / name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(textwrap.dedent(text))
        for name in ("mlflow.yml", "globals.yml", "remote.yml"):
            if not (project / "conf" / "base" / name).exists():
                (project / "conf" / "base").mkdir(parents=True, exist_ok=True)
                shutil.copy(ROOT / "conf" / "base" / name, project / "conf" / "base" / name)
        for env in ("mini", "local"):
            (project / "conf" / env).mkdir(parents=True, exist_ok=True)
        return project

    yield make
    sys.path[:] = sys_path
    for name in set(sys.modules) - modules:
        if name.split(".")[0] == "toy_project":
            del sys.modules[name]


@pytest.fixture
def made_by(monkeypatch: pytest.MonkeyPatch) -> Iterator[Callable[[str], str]]:
    """``made_by("a")`` lets the code be that of the commit "aaa…", which it returns."""
    from diffground import provenance

    def commit(digit: str) -> str:
        state = provenance.Checkout(digit * 40, changed=False)
        monkeypatch.setattr(provenance, "checkout", lambda folder: state)
        monkeypatch.setattr(provenance, "_git", lambda folder, *args: "")
        provenance.commit.cache_clear()
        return state.commit

    yield commit
    provenance.commit.cache_clear()
