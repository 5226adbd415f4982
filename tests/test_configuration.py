"""conf/: base is the papers' recipe, and everything else says only what differs."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, Literal, get_args, get_origin

import pytest
import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from omegaconf import OmegaConf
from pydantic import BaseModel, TypeAdapter
from pydantic.fields import FieldInfo

from diffground.adapters.config_loader import (
    BUILDS_ON,
    LOADER_ARGS,
    NO_ENVIRONMENTS,
    ProjectConfigLoader,
)
from diffground.config import NOT_IN_KEY

ROOT = Path(__file__).resolve().parents[1]
ENVIRONMENTS = sorted({path.name for path in (ROOT / "conf").glob("*/")} - {*NO_ENVIRONMENTS})
NOTHING = (None, [], {})  # defaults that say that there is none, or that something else decides
# Defaults of whoever uses a class without Kedro that a recipe changes all the same, and why.
OTHERWISE = {
    "text2mask.attention.noises": "1 but for VOC (appendix A), and so in every ablation",
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
    for name in _below(env):
        merged = OmegaConf.merge(below, files(name))
        below = OmegaConf.to_container(merged)  # type: ignore[assignment]
    known = dict(leaves(below))
    repeated = [
        ".".join(path) for path, value in leaves(files(env)) if known.get(path, ...) == value
    ]
    assert not repeated


def test_the_papers_environment_is_base(conf: Callable[[str], ProjectConfigLoader]) -> None:
    base, paper = conf("base"), conf("paper")
    for kind in ("parameters", "catalog", "globals", "mlflow", "remote"):
        assert base[kind] == paper[kind]
    papers = ("png", "text2mask", "personalized", "grounding_data", "iosd_data")
    assert {base["parameters"][paper]["scale"] for paper in papers} == {"paper"}


@pytest.mark.parametrize("env", [None, *ENVIRONMENTS])
def test_every_environment_has_valid_parameters(root: Path, env: str | None) -> None:
    bootstrap_project(root)
    with KedroSession.create(root, env=env) as session:
        params = session.load_context().params
    assert len(params) > 7 and all(isinstance(value, BaseModel) for value in params.values())


@pytest.mark.parametrize("env", ENVIRONMENTS)
def test_no_value_stands_in_a_class_and_in_a_file(root: Path, env: str) -> None:
    """A class has a paper's value as its default, and no file repeats it; or it has none."""
    below = {path for name in _below(env) for path, _ in leaves(files(name).get("parameters", {}))}
    repeated = [
        ".".join(path)
        for path, default, value, _ in defaults(root, env)
        if value == default and path not in below
    ]
    assert not repeated


def test_defaults_are_the_papers_or_absent(root: Path) -> None:
    """But for the training loop's, which serve every recipe, and what no result depends on."""
    other = {
        ".".join(path): (default, value)
        for path, default, value, field in defaults(root, "base")
        if default not in (*NOTHING, value)
        and NOT_IN_KEY not in field.metadata
        and not {"train", "refine"} & set(path[:-1])
    }
    assert other.keys() == OTHERWISE.keys(), other


def test_what_no_file_names_can_be_changed(root: Path) -> None:
    bootstrap_project(root)
    assert "query" not in files("base")["parameters"]["text2mask"]
    given = {"text2mask": {"query": {"background": False}, "attention": {"iterations": 1}}}
    with KedroSession.create(root, runtime_params=given) as session:
        text2mask = session.load_context().params["text2mask"]
    assert (text2mask.query.background, text2mask.attention.iterations) == (False, 1)
    assert text2mask.attention.noises == 10 and text2mask.query.synonyms, "the rest stays"


def _below(env: str) -> tuple[str, ...]:
    return () if env == "base" else ("base", *BUILDS_ON.get(env, ()))


def defaults(root: Path, env: str) -> Iterator[tuple[tuple[str, ...], Any, Any, FieldInfo]]:
    """``(path, default, value, field)`` of all that ``env`` says where a class has a default."""
    bootstrap_project(root)
    with KedroSession.create(root, env=env) as session:
        params = session.load_context().params
    for name, said in files(env).get("parameters", {}).items():
        yield from _defaults(params[name], said, (name,))


def _defaults(
    config: BaseModel, said: dict[str, Any], path: tuple[str, ...]
) -> Iterator[tuple[tuple[str, ...], Any, Any, FieldInfo]]:
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        literal = get_args(field.annotation) if get_origin(field.annotation) is Literal else ()
        if name not in said or len(literal) == 1:  # a tag, as "voc2012"
            continue
        if isinstance(value, BaseModel) and said[name]:
            yield from _defaults(value, said[name], (*path, name))
        elif not field.is_required():
            default = field.get_default(call_default_factory=True)
            plain = TypeAdapter(Any).dump_python(default, mode="json")
            yield (*path, name), plain, said[name], field
