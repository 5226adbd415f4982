"""The project as Kedro sees it: registry, typed parameters, both spellings of the run command."""

from __future__ import annotations

import inspect
import os
import subprocess
import sys
import textwrap
import typing
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from click.testing import CliRunner, Result
from kedro.framework.cli.cli import KedroCLI
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from kedro.pipeline import Pipeline
from kedro.validation import ParameterValidationError
from pydantic import BaseModel

from diffground.adapters.config_loader import LOADER_ARGS, MachineConfigLoader
from diffground.errors import InputError, RunFailed
from diffground.pipeline_registry import PIPELINES, compose, register_pipelines

TOY = """
    from kedro.pipeline import Node, Pipeline
    from diffground.config import Config

    class Inner(Config):
        lr: float

    class ToyConfig(Config):
        steps: int
        inner: Inner

    def toy(config: ToyConfig) -> dict:
        assert isinstance(config, ToyConfig)
        return {"steps": config.steps, "lr": config.inner.lr}

    def create_pipeline():
        return Pipeline([Node(toy, "params:toy", "toy_out", name="toy")])
"""
CONF = {
    "conf/base/parameters.yml": "toy: {steps: 3, inner: {lr: 0.1}}\n",
    "conf/paper/parameters.yml": "toy: {inner: {lr: 0.2}}\n",
    "conf/base/catalog.yml": """
        toy_out: {type: json.JSONDataset, filepath: data/toy.json}
        more_out: {type: json.JSONDataset, filepath: data/more.json}
    """,
}


def kedro(project: Path, *args: str) -> Result:
    """``kedro ARGS`` in this process."""
    cli = KedroCLI(project)
    before = Path.cwd()
    os.chdir(project)
    try:
        return CliRunner().invoke(cli, list(args), obj=cli._metadata)
    finally:
        os.chdir(before)


@pytest.mark.parametrize("option", ["--pipelines", "--pipeline"])
@pytest.mark.parametrize("name", ["toy", "sum"])
def test_run_by_name(toy_project: Callable[..., Path], option: str, name: str) -> None:
    """A name that has a package, and one that is only a sum in the registry."""
    project = toy_project(TOY, CONF)
    result = kedro(project, "run", option, name)
    assert result.exit_code == 0, result.exception
    assert yaml.safe_load((project / "data/toy.json").read_text()) == {"steps": 3, "lr": 0.1}
    assert (project / "data/more.json").exists() == (name == "sum")


def test_environments_say_only_what_differs(toy_project: Callable[..., Path]) -> None:
    project = toy_project(TOY, CONF)
    assert kedro(project, "run", "--env", "paper", "--params", "toy.steps=7").exit_code == 0
    assert yaml.safe_load((project / "data/toy.json").read_text()) == {"steps": 7, "lr": 0.2}


def test_places_of_the_machine_are_known_to_every_environment(
    toy_project: Callable[..., Path],
) -> None:
    places = {
        "conf/base/globals.yml": "here: data/base\nthere: data/base\n",
        "conf/paper/globals.yml": "here: data/paper\nthere: data/paper\n",
        "conf/local/globals.yml": "there: data/local\n",
        "conf/local/parameters.yml": "toy: {steps: 9}\n",
        "conf/base/catalog.yml": """
            toy_out: {type: json.JSONDataset, filepath: "${globals:here}/toy.json"}
            more_out: {type: json.JSONDataset, filepath: "${globals:there}/more.json"}
        """,
    }
    project = toy_project(TOY, CONF | places)
    assert kedro(project, "run", "--env", "paper", "--pipelines", "sum").exit_code == 0
    found = yaml.safe_load((project / "data/paper/toy.json").read_text())
    assert found == {"steps": 3, "lr": 0.2}, "parameters of `local` are not this environment's"
    assert (project / "data/local/more.json").exists()


def test_the_machine_has_the_last_word_where_no_environment_is_named(
    toy_project: Callable[..., Path],
) -> None:
    files = {
        "conf/mini/parameters.yml": "toy: {steps: 4, inner: {lr: 0.3}}\n",
        "conf/mini/globals.yml": "here: data/mini\nthere: data/mini\n",
        "conf/local/parameters.yml": "toy: {steps: 9}\n",
        "conf/local/globals.yml": "there: data/local\n",
        "conf/local/catalog.yml": "toy_out: {filepath: '${globals:here}/own.json'}\n",
        "conf/local/credentials.yml": "store: {key: secret}\n",
        "conf/base/globals.yml": "here: data/base\nthere: data/base\n",
        "conf/base/catalog.yml": """
            toy_out: {type: json.JSONDataset, filepath: "${globals:here}/toy.json"}
            more_out: {type: json.JSONDataset, filepath: "${globals:there}/more.json"}
        """,
    }
    project = toy_project(TOY, CONF | files)
    loader = MachineConfigLoader(project / "conf", **LOADER_ARGS)
    assert loader["credentials"] == {"store": {"key": "secret"}}
    assert kedro(project, "run", "--pipelines", "sum").exit_code == 0
    found = yaml.safe_load((project / "data/mini/own.json").read_text())
    assert found == {"steps": 9, "lr": 0.3}
    assert (project / "data/local/more.json").exists()


def test_an_environment_may_build_on_the_mini_worlds(toy_project: Callable[..., Path]) -> None:
    files = {
        "conf/mini/parameters.yml": "toy: {steps: 4, inner: {lr: 0.3}}\n",
        "conf/gpu/parameters.yml": "toy: {inner: {lr: 0.7}}\n",
        "conf/local/parameters.yml": "toy: {steps: 9}\n",
    }
    project = toy_project(TOY, CONF | files)
    assert kedro(project, "run", "--env", "gpu", "--pipelines", "sum").exit_code == 0
    assert yaml.safe_load((project / "data/toy.json").read_text()) == {"steps": 4, "lr": 0.7}
    result = kedro(project, "run", "--env", "local")
    assert result.exit_code == 1 and "--env: local: is no environment" in result.output


def test_local_places_are_lines(toy_project: Callable[..., Path]) -> None:
    project = toy_project(TOY, CONF | {"conf/local/globals.yml": "- data\n"})
    with pytest.raises(InputError, match=r"local/globals\.yml: globals: lines `name: place`"):
        MachineConfigLoader(project / "conf", env="paper", **LOADER_ARGS)


@pytest.mark.parametrize(
    ("params", "message"),
    [
        ("toy.typo=1", "\ntoy.typo: Extra inputs are not permitted, not 1\n"),
        ("toy.inner.typo=1", "\ntoy.inner.typo: Extra inputs are not permitted, not 1\n"),
        ("toy.steps=few", "\ntoy.steps: Input should be a valid integer, "),
        ("toy.steps=few,toy.typo=1", "\ntoy.typo: Extra inputs are not permitted, not 1\n"),
        ("toy=1", "\ntoy: Input should be a valid dictionary or instance of ToyConfig, not 1\n"),
    ],
)
def test_wrong_parameters_fail_before_the_run(
    toy_project: Callable[..., Path], params: str, message: str
) -> None:
    project = toy_project(TOY, CONF)
    result = kedro(project, "run", "--pipelines", "toy", "--params", params)
    assert result.exit_code == 1 and "Parameter validation failed" in result.output
    assert message in result.output
    assert not (project / "data").exists()


@pytest.mark.parametrize("where", ["--params", "base", "local"])
def test_an_unknown_parameter_fails_before_the_run(
    toy_project: Callable[..., Path], where: str
) -> None:
    """Kedro would run, as if nothing had been said."""
    file = f"conf/{where}/parameters_more.yml"
    project = toy_project(TOY, CONF | ({} if where == "--params" else {file: "tyo: {steps: 5}"}))
    params = ["--params", "tyo.steps=5,toy.steps=4"] if where == "--params" else []
    result = kedro(project, "run", *params)
    assert result.exit_code == 1 and not (project / "data").exists()
    origin = where if where == "--params" else project / file
    assert (
        f"{origin}: tyo: no pipeline reads such a parameter; did you mean `toy`?" in result.output
    )


@pytest.mark.parametrize(
    ("options", "message"),
    [
        (("--pipelines", "tyo"), "--pipelines: tyo: there is no such pipeline; did you mean `toy`"),
        (("--pipeline", "tyo"), "--pipelines: tyo: there is no such pipeline; did you mean `toy`"),
        (("--env", "papr"), "--env: papr: there is no such environment; did you mean `paper`"),
        (("--nodes", "tyo"), "Pipeline does not contain nodes named ['tyo']"),
    ],
)
def test_a_misspelt_name_is_told_with_the_nearest(
    toy_project: Callable[..., Path], options: tuple[str, str], message: str
) -> None:
    project = toy_project(TOY, CONF)
    result = kedro(project, "run", *options)
    assert result.exit_code == 1 and not (project / "data").exists()
    assert message in result.output and "Traceback" not in result.output


DEVICES = """
    from kedro.pipeline import Node, Pipeline
    from diffground.config import AutoDevice, Config

    class ToyConfig(Config):
        device: AutoDevice = "auto"

    def toy(config: ToyConfig) -> dict:
        return {"device": config.device}

    def create_pipeline():
        return Pipeline([Node(toy, "params:toy", "toy_out", name="toy")])
"""


@pytest.mark.parametrize(
    ("device", "message"),
    [
        ("tpu", "String should match pattern"),
        ("cuda:99", "parameters: toy.device: this machine has no cuda:99; it has cpu"),
    ],
)
def test_devices_are_looked_for_before_the_run(
    toy_project: Callable[..., Path], device: str, message: str
) -> None:
    project = toy_project(DEVICES, CONF | {"conf/base/parameters.yml": "toy: {}\n"})
    result = kedro(project, "run", "--params", f"toy.device={device}")
    assert result.exit_code == 1 and message in result.output
    assert not (project / "data").exists()


FAILURES = """
    from kedro.pipeline import Node, Pipeline
    from diffground.config import Config
    from diffground.errors import InputError

    class ToyConfig(Config):
        kind: str = "input"

    def toy(config: ToyConfig) -> dict:
        if config.kind == "input":
            raise InputError("image.jpg", "size", "it is empty; make it again")
        if config.kind == "loss":
            raise FloatingPointError("png: the loss is nan at step 3")
        raise KeyError("a bug")

    def create_pipeline():
        return Pipeline([Node(toy, "params:toy", "toy_out", name="toy")])
"""


@pytest.mark.slow
@pytest.mark.parametrize(
    ("start", "kind", "message"),
    [
        (["kedro", "run", "--pipeline", "toy"], "input", "image.jpg: size: it is empty; make it"),
        (["kedro", "run", "--pipelines", "toy"], "loss", "png: the loss is nan at step 3"),
        (["toy_project"], "input", "image.jpg: size: it is empty; make it again"),
        (["kedro", "run"], "bug", None),
    ],
)
def test_our_errors_are_told_and_bugs_are_traced(
    toy_project: Callable[..., Path], start: list[str], kind: str, message: str | None
) -> None:
    project = toy_project(FAILURES, CONF | {"conf/base/parameters.yml": "toy: {}\n"})
    main = (Path(inspect.getfile(compose)).parent / "__main__.py").read_text()
    (project / "src/toy_project/__main__.py").write_text(main)
    env = {**os.environ, "PYTHONPATH": os.pathsep.join([str(project / "src"), *sys.path])}
    env |= {"COLUMNS": "200"}

    def run(**more: str) -> tuple[int, str]:
        command = [sys.executable, "-m", *start, "--params", f"toy.kind={kind}"]
        done = subprocess.run(
            command, cwd=project, env=env | more, capture_output=True, text=True, check=False
        )
        return done.returncode, done.stdout + done.stderr

    code, output = run()
    assert code == 1
    if message is None:
        assert "Traceback" in output and "KeyError: 'a bug'" in output
        return
    assert f"Error: {message}" in output and "DIFFGROUND_TRACEBACK=1 shows where" in output
    assert "Traceback" not in output and len(output.splitlines()) < 25
    if kind == "loss":
        code, output = run(DIFFGROUND_TRACEBACK="1")
        assert code == 1 and "Traceback" in output and message in output


def test_errors_are_short_in_notebooks(
    toy_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    from IPython.core.interactiveshell import InteractiveShell

    from diffground.adapters.notebook import open_project, run_pipeline

    project = toy_project(TOY, CONF)
    root = open_project(project)
    with pytest.raises(RunFailed, match=r"toy\.typo: Extra inputs") as told:
        run_pipeline(root, "toy", {"toy": {"typo": 1}}, [])
    with pytest.raises(InputError, match="no pipeline reads") as input_error:
        run_pipeline(root, "toy", {"tyo": {"steps": 1}}, [])
    shell = InteractiveShell()
    shown: list[list[str]] = []
    monkeypatch.setattr(shell, "_showtraceback", lambda kind, value, lines: shown.append(lines))
    for error in (told.value, input_error.value):
        shell.showtraceback((type(error), error, error.__traceback__))
        assert len("\n".join(shown[-1]).splitlines()) < 12
        assert str(error) in "\n".join(shown[-1])
    monkeypatch.setenv("DIFFGROUND_TRACEBACK", "1")
    shell.showtraceback((type(told.value), told.value, told.value.__traceback__))
    assert len("\n".join(shown[-1]).splitlines()) > 12


def test_missing_folders_fail_before_the_run(toy_project: Callable[..., Path]) -> None:
    pipeline = """
        from pathlib import Path
        from kedro.pipeline import Node, Pipeline

        def slow() -> dict:
            raise AssertionError("the folder must be missed before the first node runs")

        def create_pipeline():
            return Pipeline([
                Node(slow, None, "toy_out", name="slow"),
                Node(lambda first, model: first, ["toy_out", "model"], "used", name="use"),
            ])
    """
    catalog = """
        model: {type: diffground.adapters.datasets.ModelFolderDataset, filepath: models/sd,
                remedy: get it}
    """
    files = {"conf/base/catalog.yml": catalog, "conf/base/parameters.yml": "{}"}
    project = toy_project(pipeline, files)
    result = kedro(project, "run")
    assert f"{project / 'models/sd'}: folder: there is no such folder; get it" in result.output


def test_what_an_earlier_node_makes_is_asked_for_before_the_run(
    toy_project: Callable[..., Path],
) -> None:
    """A run that begins in the middle goes on with what is on disk, or says what to do."""
    pipeline = """
    from kedro.pipeline import Node, Pipeline
    def create_pipeline():
        return Pipeline([
            Node(lambda: {"a": 1}, None, "kept", name="first"),
            Node(lambda kept: {"b": kept["a"]}, "kept", "passed", name="second"),
            Node(lambda passed: passed, "passed", "told", name="third"),
        ])
    """
    catalog = """
        kept: {type: diffground.adapters.datasets.files.JSONDataset, filepath: data/kept.json}
        passed: {type: diffground.adapters.datasets.files.MemoryDataset}
        told: {type: diffground.adapters.datasets.files.JSONDataset, filepath: data/told.json}
    """
    files = {"conf/base/catalog.yml": catalog, "conf/base/parameters.yml": "{}"}
    project = toy_project(pipeline, files)
    early = kedro(project, "run", "--from-nodes", "second").output
    assert f"{project / 'data/kept.json'}: kept: it is not there; begin earlier" in early
    assert "or run one of" in early
    assert kedro(project, "run").exit_code == 0
    assert kedro(project, "run", "--from-nodes", "second").exit_code == 0
    late = kedro(project, "run", "--from-nodes", "third").output
    assert "memory: passed: it is not there" in late


def test_a_broken_part_is_an_error(toy_project: Callable[..., Path]) -> None:
    bootstrap_project(toy_project("import no_such_library", CONF))
    with pytest.raises(ImportError, match="no_such_library"):
        compose({"toy": ("toy",)}, "toy_project.pipelines")


# The real project.


@pytest.fixture(scope="module")
def pipelines() -> dict[str, Pipeline]:
    return register_pipelines()


def test_registry(pipelines: dict[str, Pipeline]) -> None:
    assert set(pipelines) == set(PIPELINES) and "__default__" in pipelines
    parts = {part.partition(":")[0] for recipe in PIPELINES.values() for part in recipe}
    folder = Path(inspect.getfile(compose)).parent / "pipelines"
    assert parts == {p.name for p in folder.iterdir() if (p / "__init__.py").exists()}
    for name, pipeline in pipelines.items():
        assert pipeline.nodes, name


def test_nodes_have_names_and_typed_parameters(pipelines: dict[str, Pipeline]) -> None:
    """Kedro passes what it cannot check raw and in silence: unannotated, unions, two types."""
    types: dict[str, type] = {}
    for node in {node for pipeline in pipelines.values() for node in pipeline.nodes}:
        assert "__" not in node.name, f"{node.func.__name__} needs a name"
        hints = typing.get_type_hints(node.func)
        given, named = _placeholders(node)
        arguments = dict(inspect.signature(node.func).bind(*given, **named).arguments)
        for argument, dataset in arguments.items():
            if not str(dataset).startswith("params:"):
                continue
            kind = hints[argument]
            assert types.setdefault(dataset, kind) is kind, f"{dataset} has two types"
            assert inspect.isclass(kind), f"{node.name}: {dataset} is {kind}: Kedro passes it raw"
            checked = issubclass(kind, (BaseModel, bool, int, float, str))
            assert checked, f"{node.name}: {dataset} is {kind}: Kedro passes it raw"


def test_missing_weights_of_the_papers_are_asked_for_by_name(root: Path) -> None:
    """Not the mini model's remedy, which is part of the repository."""
    bootstrap_project(root)
    for env, known in ((None, "check it out again"), ("paper", "hf download")):
        with KedroSession.create(root, env=env) as session:
            catalog = session.load_context().catalog
        for name in ("stable_diffusion", "text2mask_diffusion"):
            assert known in catalog[name].remedy
            assert ("mini model" in catalog[name].remedy) == (env is None)


def test_a_wrong_parameter_of_the_project(root: Path) -> None:
    bootstrap_project(root)
    with KedroSession.create(root, runtime_params={"png": {"typo": 1}}) as session:
        with pytest.raises(ParameterValidationError, match="'png'(.|\n)*typo\n.*not permitted"):
            session.load_context().params  # noqa: B018


def test_every_dataset_is_in_the_catalog(root: Path, pipelines: dict[str, Pipeline]) -> None:
    """What no entry describes would live in memory, undocumented."""
    from diffground.adapters.catalog_docs import load_catalog

    known = set(load_catalog(root))
    used = {name for pipeline in pipelines.values() for name in pipeline.datasets()}
    assert {n for n in used if not n.startswith("params:")} <= known


HEAVY = ("torch", "diffusers", "transformers", "accelerate", "matplotlib", "mlflow", "scipy")


@pytest.mark.parametrize(
    "what",
    [
        pytest.param("import diffground.settings", id="settings"),
        pytest.param(
            """
            from diffground.pipeline_registry import register_pipelines
            from kedro.validation import TypeExtractor
            assert TypeExtractor(register_pipelines()).extract_types_from_pipelines()
            """,
            id="pipelines-and-their-parameters",
        ),
        pytest.param("from diffground.backbone.folder import ModelFolder", id="model-folder"),
    ],
)
def test_commands_start_fast(what: str) -> None:
    """The settings are imported by every command, the pipelines by most, both by every run: what
    takes seconds is imported when a node runs, MLflow when a run begins.
    """
    code = f"""{textwrap.dedent(what)}
import sys
heavy = {{*{HEAVY}}} & set(sys.modules)
assert not heavy, heavy
"""
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    command = [sys.executable, "-c", code]
    done = subprocess.run(command, env=env, capture_output=True, text=True, check=False)
    assert done.returncode == 0, done.stderr


def _placeholders(node: typing.Any) -> tuple[list[str], dict[str, str]]:
    """The inputs that are given in order, and those by name."""
    if isinstance(node._inputs, dict):
        return [], node._inputs
    return [node._inputs] if isinstance(node._inputs, str) else list(node._inputs or []), {}
