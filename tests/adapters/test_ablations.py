"""Grids of notebooks: killed and resumed, failing, logged, and shown on one page."""

from __future__ import annotations

import base64
import io
import json
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import nbformat
import pytest
from click.testing import CliRunner
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from PIL import Image

from diffground.adapters.ablations.grids import names, read_grid
from diffground.adapters.ablations.pages import write_pages
from diffground.adapters.notebook import nested
from diffground.console import main
from diffground.errors import InputError

ROOT = Path(__file__).parents[2]
#: A kernel of its own for each cell: what they do is written down in files.
SOURCE = """
import os, time
from pathlib import Path
place = Path(project) / "seen"
(place / f"{letter}{number}.starts").open("a").write(f"{os.getpid()}\\n")
while (place / f"{letter}{number}.wait").exists():
    time.sleep(0.05)
assert number != 13, "an unlucky\\nnumber"
if number == 14:
    import rich.traceback
    rich.traceback.install()
    raise ValueError("after it")
(place / f"{letter}{number}.ends").open("a").write("x\\n")
"""
PICTURE = """
import os
import re
from IPython.display import display
from PIL import Image
display(Image.new("RGB", (300, 300), "navy"))
display(Image.new("RGB", (600, 300), "teal"))
table = {"table": "Table 9", "rows": [{"name": "row", "mean": {"AR": 10.0 * number, "no": None}}]}
display({"application/vnd.diffground.table+json": table, "text/plain": "a table"}, raw=True)
print("under", os.environ.get("DIFFGROUND_PARENT_RUN"))
"""
CONSOLE = "from diffground.console import main; main()"
PARAMETERS = """
project: str = "."  # the repository's folder
letter: str = "a"  # one
number: int = 0  # another
"""


@pytest.fixture
def project(tmp_path: Path) -> Path:
    """A folder with a small notebook and a grid of six cells."""
    cells = [
        nbformat.v4.new_markdown_cell("# A toy"),
        nbformat.v4.new_code_cell(PARAMETERS, metadata={"tags": ["parameters"]}),
        nbformat.v4.new_code_cell(SOURCE),
        nbformat.v4.new_code_cell(PICTURE),
    ]
    kernel = {"kernelspec": {"name": "python3", "display_name": "Python 3", "language": "python"}}
    for folder in ("notebooks", "seen", "conf/base", "conf/mini", "conf/ablations"):
        (tmp_path / folder).mkdir(parents=True)
    nbformat.write(nbformat.v4.new_notebook(cells=cells, metadata=kernel),
                   tmp_path / "notebooks/toy.ipynb")  # fmt: skip
    (tmp_path / "pyproject.toml").write_text("")
    log = "enabled: true\ntracking_uri: sqlite:///mlflow.db\nexperiment: toy\n"
    (tmp_path / "conf/base/mlflow.yml").write_text(log)
    write_grid(tmp_path, {"letter": ["a", "b"], "number": [1, 2, 3]})
    return tmp_path


def write_grid(project: Path, grid: dict[str, Any], **more: Any) -> None:
    content = {"notebook": "toy", "grid": grid, **more}
    (project / "conf/ablations/toy.yml").write_text(json.dumps(content))  # YAML as well


@pytest.fixture
def ablate(project: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., str]:
    """``ablate()`` runs ``diffground ablate toy`` in this process, and returns what it says."""
    monkeypatch.chdir(project)

    def command(*, failing: bool = False) -> str:
        done = CliRunner().invoke(main, ["ablate", "toy"])
        assert done.exit_code == failing, done.output
        return done.output

    return command


def seen(project: Path, kind: str) -> dict[str, int]:
    """How often each cell began (``starts``), or came to its end (``ends``)."""
    files = (project / "seen").glob(f"*.{kind}")
    return {path.stem: len(path.read_text().split()) for path in sorted(files)}


def killed_in(project: Path, cell: str) -> None:
    """Runs the grid, kills it with -9 in the middle of a cell, and sees its kernel go too."""
    wait = project / f"seen/{cell}.wait"
    wait.touch()
    process = subprocess.Popen(
        [sys.executable, "-c", CONSOLE, "ablate", "toy"],
        cwd=project,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        text=True,
        stdout=subprocess.PIPE,
        stderr=subprocess.STDOUT,
    )
    starts = project / f"seen/{cell}.starts"
    while not starts.exists():
        assert process.poll() is None, process.stdout and process.stdout.read()
        time.sleep(0.05)
    process.send_signal(signal.SIGKILL)
    process.wait()
    kernel = int(starts.read_text().split()[-1])
    while alive(kernel):  # a kernel without a parent ends by itself
        time.sleep(0.05)
    wait.unlink()


def alive(pid: int) -> bool:
    try:
        return "Z" not in Path(f"/proc/{pid}/stat").read_text().rsplit(")", 1)[1].split()[0]
    except FileNotFoundError:
        return False


def test_a_grid_killed_twice_goes_on(project: Path, ablate: Callable[..., str]) -> None:
    killed_in(project, "a2")
    assert seen(project, "ends") == {"a1": 1}
    killed_in(project, "b2")
    assert seen(project, "ends") == {"a1": 1, "a2": 1, "a3": 1, "b1": 1}
    assert "toy: 6 of 6 cells are finished, 2 of them now" in ablate()
    every = {f"{letter}{number}": 1 for letter in "ab" for number in (1, 2, 3)}
    assert seen(project, "ends") == every
    assert seen(project, "starts") == every | {"a2": 2, "b2": 2}  # killed in the middle
    assert not [*project.glob("kernel*")], "sockets of dead kernels"
    executed = project / "data/08_reporting/ablations/notebooks/toy"
    assert len([*executed.glob("*.ipynb")]) == 6
    assert "6 of 6 cells are finished, none of them now" in ablate()
    assert seen(project, "ends") == every


def test_what_a_cell_is_made_of_decides_whether_it_is_run_again(
    project: Path, ablate: Callable[..., str]
) -> None:
    write_grid(project, {"number": [1]})
    ablate()
    path = project / "notebooks/toy.ipynb"
    notebook = json.loads(path.read_text())
    for cell in notebook["cells"]:
        cell["id"] = f"new-{cell['id']}"
    path.write_text(json.dumps(notebook))
    assert "none of them now" in ablate()
    write_grid(project, {"number": [1]}, parameters={"letter": "b"})
    assert "1 of 1 cells are finished, 1 of them now" in ablate()
    notebook["cells"][2]["source"] += "\n# changed"
    path.write_text(json.dumps(notebook))
    assert "1 of them now" in ablate()
    assert seen(project, "ends") == {"a1": 1, "b1": 2}


@pytest.mark.slow
def test_a_cell_that_fails_is_listed_and_the_others_run(
    project: Path, ablate: Callable[..., str], monkeypatch: pytest.MonkeyPatch
) -> None:
    """And each is a child run of one run, in which a later call goes on."""
    from mlflow import MlflowClient

    monkeypatch.setenv("DIFFGROUND_RUN_LOG", "1")
    write_grid(project, {"number": [13, 1, 14]})
    output = ablate(failing=True)
    assert "toy: 1 of 3 cells are finished, 1 of them now; 2 failed" in output
    assert re.search(r"number_14-\w+: ValueError: after it$", output, re.M), output
    assert "AssertionError: an unlucky number" in output
    write_grid(project, {"number": [13, 1, 2]})
    assert "2 of 3 cells are finished, 1 of them now; 1 failed" in ablate(failing=True)
    starts = seen(project, "starts")
    assert starts == {"a1": 1, "a13": 2, "a14": 1, "a2": 1}  # tried again, what is finished is not

    client = MlflowClient(f"sqlite:///{project}/mlflow.db")
    (experiment,) = (e for e in client.search_experiments() if e.name == "toy")
    runs = client.search_runs([experiment.experiment_id])
    (parent,) = (run for run in runs if "mlflow.parentRunId" not in run.data.tags)
    assert (parent.info.run_name, parent.info.status) == ("ablate toy", "FINISHED")
    children = {run.info.run_name: run for run in runs if run is not parent}
    status = {name: run.info.status for name, run in children.items()}
    failed = {"number=13": "FAILED", "number=14": "FAILED"}
    assert status == {"number=1": "FINISHED", **failed, "number=2": "FINISHED"}
    for child in children.values():
        assert child.data.tags["mlflow.parentRunId"] == parent.info.run_id
        (artifact,) = client.list_artifacts(child.info.run_id)
        assert artifact.path.endswith(".ipynb")
    two = children["number=2"]
    assert two.data.params == {"number": "2"}
    assert two.data.metrics["row/AR"] == 20 and two.data.metrics["seconds"] > 0
    (page,) = (project / "data/08_reporting/ablations/notebooks/toy").glob("number_2-*.ipynb")
    assert f"under {two.info.run_id}" in page.read_text()


@pytest.mark.parametrize(
    ("content", "field", "reason"),
    [
        ({"notebook": "toy", "grid": {"numbr": [1]}}, "grid.numbr", "did you mean `number`?"),
        ({"notebook": "toy", "grid": {"project": ["."]}}, "grid.project", "no parameter of"),
        ({"notebook": "toy", "grid": {"number": ["1"]}}, "grid.number", "takes int there"),
        ({"notebook": "toy", "grid": {"number": [True]}}, "grid.number", "takes int there"),
        ({"notebook": "toy", "grid": {"number": [1, 1]}}, "grid", "a value twice"),
        ({"notebook": "toy", "grid": {"number": []}}, "grid.number", "at least 1 item"),
        ({"notebook": "toi", "grid": {"number": [1]}}, "notebook", "has none of the name toi"),
        ({"notebook": "toy", "grid": {"number": [1]}, "parameters": {"number": 2}}, "grid.number",
         "take one away"),
        ({"notebook": "toy"}, "grid", "Field required"),
        ([1], "content", "valid dictionary"),
    ],
)  # fmt: skip
def test_a_grid_that_cannot_be_is_named(
    project: Path, content: Any, field: str, reason: str
) -> None:
    file = project / "conf/ablations/toy.yml"
    file.write_text(json.dumps(content))
    with pytest.raises(InputError) as error:
        read_grid(project, "toy")
    assert (error.value.file, error.value.field) == (str(file), field)
    assert reason in error.value.reason


def test_a_grid_that_is_not_there_is_named(project: Path) -> None:
    with pytest.raises(InputError, match="there is no such grid; did you mean `toy`"):
        read_grid(project, "toi")
    assert read_grid(project, str(project / "conf/ablations/toy.yml")).name == "toy"


def test_the_index_shows_what_was_executed(project: Path, ablate: Callable[..., str]) -> None:
    write_grid(project, {"number": [1, 13, 2]})
    output = ablate(failing=True)
    index = project / "data/08_reporting/ablations/index.html"
    assert output.splitlines()[-1] == str(index)
    text = index.read_text()
    assert "2 of 3 cells are finished" in text and "an unlucky number" in text
    thumbnails = re.findall(r'<img alt="" src="data:image/png;base64,([^"]+)"', text)
    sizes = [Image.open(io.BytesIO(base64.b64decode(one))).size for one in thumbnails]
    assert sizes == [(420, 210)] * 2
    assert "<tr><td>row/AR</td><td>20</td></tr>" in text
    links = re.findall(r"href=['\"]([^'\"]+)", text)
    assert len(links) == 4 and all((index.parent / link).is_file() for link in links)
    pages = [index.parent / link for link in links if link.endswith(".html")]
    for file in [index, *pages]:
        content = file.read_text()
        # All that a page needs is in it.
        assert not re.search(r"<script|<link|src=[\"'](?!data:)|url\(|@import", content), file
    said = pages[0].read_text()
    assert "number = 1" in said and 'href="../../index.html"' in said and "data:image/png" in said

    # Of a file elsewhere: it stays in the index when others are run.
    Path("own.yml").write_text(json.dumps({"notebook": "toy", "grid": {"number": [4]}}))
    assert CliRunner().invoke(main, ["ablate", "own.yml"]).exit_code == 0
    assert "own: toy.ipynb, 1 of 1 cells finished" in CliRunner().invoke(main, ["ablate"]).output
    assert 'id="own"' in index.read_text() and 'id="toy"' in index.read_text()

    before = {page: page.stat().st_mtime_ns for page in pages}
    os.utime(pages[0], ns=(0, 0))  # older than its notebook
    write_pages(project, [read_grid(project, "toy")])
    assert pages[0].read_text() == said and pages[0].stat().st_mtime_ns > before[pages[0]]
    assert pages[1].stat().st_mtime_ns == before[pages[1]]
    assert "<code>diffground ablate toy</code>" in index.read_text()
    own = Path(shutil.copy(project / "conf/ablations/toy.yml", project / "own.yml"))
    write_pages(project, [read_grid(project, str(own))])
    assert f"<code>diffground ablate {own}</code>" in index.read_text()


@pytest.mark.parametrize("name", names(ROOT))
def test_shipped_grids_fit_their_notebooks_and_the_parameters(name: str) -> None:
    grid = read_grid(ROOT, name)
    assert len(grid.cells) > 1
    first, *others = grid.file.read_text("utf-8").splitlines()
    assert first.startswith(f"# diffground ablate {name}   ") and "# Hardware: " in "".join(others)
    bootstrap_project(ROOT)
    for cell in grid.cells:
        given = nested(cell.parameters.get("params", ""))
        with KedroSession.create(ROOT, runtime_params=given) as session:
            known = session.load_context().params  # raises for what no class takes
        assert given.keys() <= known.keys()
