"""conf/: base is the papers' recipe, and everything else says only what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from omegaconf import OmegaConf
from pydantic import BaseModel, TypeAdapter

from diffground.adapters.config_loader import (
    BUILDS_ON,
    LOADER_ARGS,
    LOCAL,
    ProjectConfigLoader,
)
from diffground.config import NOT_IN_KEY

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = sorted(
    path.name for path in (ROOT / "conf").iterdir() if path.is_dir() and path.name != LOCAL
)
LOOP = "the training loop's own, which serves every recipe"
NOTHING = (None, {}, [])  # defaults that say that there is none, or that something else decides
# Defaults that are other than base's, and why they are a paper's all the same.
OTHERWISE = {
    "png.loss.points": "equations 12 and 13 as they stand; points spare memory at 1024 pixels",
    "png.train.schedule": LOOP,
    "text2mask.attention.noises": "1 but for VOC (appendix A), and so in every ablation",
    "text2mask.masks.initial": "what is kept beside the masks; the pipelines measure it too",
    **{
        f"text2mask.segmenter.train.{name}": LOOP
        for name in ("optimizer", "schedule", "weight_decay", "grad_clip")
    },
}


def files(env: str) -> dict[str, dict[str, Any]]:
    """Kind (``parameters``, ...) -> what the environment's files say, references as written."""
    said: dict[str, Any] = {}
    for path in sorted((ROOT / "conf" / env).glob("*.yml")):
        kind = said.setdefault(path.stem.partition("_")[0], {})
        content = yaml.safe_load(path.read_text("utf-8"))
        assert not kind.keys() & content.keys(), f"{path}: said twice in {env}"
        kind |= content
    return said


def leaves(content: Any, path: tuple[str, ...] = ()) -> Iterator[tuple[tuple[str, ...], Any]]:
    """Every value that is no mapping, and empty mappings, under its names."""
    if isinstance(content, dict) and content:
        for name, value in content.items():
            yield from leaves(value, (*path, str(name)))
    else:
        yield path, content


def test_a_run_takes_mini_and_mini_lies_on_base() -> None:
    assert LOADER_ARGS["default_run_env"] == "mini"
    assert LOADER_ARGS["base_env"] == "base"
    assert set(ENVIRONMENTS) == {"base", "mini", "paper", *BUILDS_ON}


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_every_value_is_said_once(env: str) -> None:
    """No environment repeats what it builds on: changing a value there changes it everywhere."""
    below: dict[str, Any] = {}
    for name in ("base", *BUILDS_ON.get(env, ())) if env != "base" else ():
        merged = OmegaConf.merge(below, files(name))
        below = OmegaConf.to_container(merged)  # type: ignore[assignment]
    known = dict(leaves(below))
    repeated = [
        ".".join(path) for path, value in leaves(files(env)) if known.get(path, ...) == value
    ]
    assert not repeated


def test_the_papers_environment_is_base(conf: Callable[[str], ProjectConfigLoader]) -> None:
    base, paper = conf("base"), conf("paper")
    for kind in ("parameters", "catalog", "globals", "mlflow"):
        assert base[kind] == paper[kind]
    assert {base["parameters"][paper]["scale"] for paper in ("png", "text2mask")} == {"paper"}


@pytest.mark.parametrize("env", [None, *ENVIRONMENTS])
def test_every_environment_has_valid_parameters(root: Path, env: str | None) -> None:
    bootstrap_project(root)
    with KedroSession.create(root, env=env) as session:
        params = session.load_context().params
    assert len(params) > 7 and all(isinstance(value, BaseModel) for value in params.values())


def test_class_defaults_are_the_papers_or_absent(root: Path) -> None:
    """What is written twice, for those who use a class without Kedro, may not come apart."""
    bootstrap_project(root)
    with KedroSession.create(root, env="base") as session:
        context = session.load_context()
        said, params = context.config_loader["parameters"], context.params
    twice = {
        path: (default, value)
        for name in said
        for path, default, value in written_twice(params[name], said[name], name)
    }
    ours = [p for p in twice if p.startswith("foundation") and ".train." not in p]
    assert not ours, "no paper's: said in conf/base alone"
    other = {
        path: (default, value)
        for path, (default, value) in twice.items()
        if not path.startswith("foundation") and default not in NOTHING and default != value
    }
    assert other.keys() == OTHERWISE.keys(), other


def written_twice(
    config: BaseModel, said: dict[str, Any], path: str
) -> Iterator[tuple[str, Any, Any]]:
    """``(path, default, value)`` of fields with a default that the configuration names as well."""
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if name not in said or NOT_IN_KEY in field.metadata:
            continue
        if isinstance(value, BaseModel):
            yield from written_twice(value, said[name], f"{path}.{name}")
        elif not field.is_required():
            default = field.get_default(call_default_factory=True)
            plain = TypeAdapter(Any).dump_python(default, mode="json")
            yield f"{path}.{name}", plain, said[name]
