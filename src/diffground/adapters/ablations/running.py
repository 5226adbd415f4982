"""Runs the cells of a grid by papermill, into a store of executed notebooks.

A cell is one item of a store (:mod:`diffground.store.items`): it is finished when its executed
notebook was written whole, by a notebook that says the same, with the same parameters. A killed
grid therefore goes on with the cell that it was in, and a cell that fails is listed, keeps nobody
up, and is tried again by the next call. The commit is no part of the key, nor is the code: remove
the folder of a grid to run it anew.
"""

from __future__ import annotations

import json
import os
import re
import tempfile
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from diffground.adapters.ablations.grids import PROJECT, Cell, Grid, names, read_grid
from diffground.adapters.config_loader import LOADER_ARGS, MachineConfigLoader
from diffground.adapters.hooks.runs import RunLogConfig
from diffground.adapters.notebook_tables import TABLE
from diffground.adapters.run_log import PARENT_RUN, MlflowTracker, code_version
from diffground.errors import HINT, InputError
from diffground.io.files import read_json, write_json, write_whole
from diffground.provenance import Recipe
from diffground.store.items import Item, Summary, fill, finished_notes
from diffground.tracking import Tracker, numbers

PLACE = "data/08_reporting/ablations"
STORES, PAGES, INDEX = f"{PLACE}/notebooks", f"{PLACE}/pages", f"{PLACE}/index.html"
NOTE = ".grid.json"  # in a grid's folder: its file, and the run that its cells' runs are under


def run_grid(project: Path, grid: Grid, say: Callable[[str], object]) -> Summary:
    """Runs the cells of a grid that are not finished, one after the other.

    Args:
        project: the repository.
        say: told how each cell ended.

    Returns:
        What was made, kept and could not be made.
    """
    folder = folder_of(project, grid.name)
    _note(folder, {"file": str(grid.file.resolve())})
    with parent_run(project, grid, folder) as log:
        runner = _Runner(project, grid, folder, log, say)
        return fill(folder, recipe(grid), items(grid), runner.make, runner.finish, what="cells of")


def known_grids(project: Path) -> dict[str, Grid]:
    """The project's grids by name, and those of other files that were run, if these still exist."""
    found = {name: read_grid(project, name) for name in names(project)}
    for note in sorted((project / STORES).glob(f"*/{NOTE}")):
        file = Path((read_json(note) or {}).get("file", ""))
        if note.parent.name not in found and file.is_file():
            found[note.parent.name] = read_grid(project, str(file))
    return found


def _note(folder: Path, facts: Mapping[str, Any]) -> None:
    """Adds to what is known of a grid's folder."""
    write_json(folder / NOTE, {**(read_json(folder / NOTE) or {}), **facts})


def summed_up(grid: Grid, done: Summary) -> str:
    """What a call did, in words, with the cells that failed."""
    failed = done["skipped"]["problems"]
    finished = done["items"] - len(failed)
    now = done["made"] or "none"
    text = f"{grid.name}: {finished} of {done['items']} cells are finished, {now} of them now"
    lines = [f"    {problem['item']}: {problem['reason']}" for problem in failed]
    return "\n".join([text + (f"; {len(failed)} failed" if failed else ""), *lines])


def state(project: Path, grid: Grid) -> str:
    """How far a grid is, in words."""
    notes = finished_notes(folder_of(project, grid.name), recipe(grid), items(grid))
    return f"{grid.name}: {grid.notebook.name}, {len(notes)} of {len(grid.cells)} cells finished"


def folder_of(project: Path, name: str) -> Path:
    """Where the executed notebooks of a grid lie."""
    return project / STORES / name


def recipe(grid: Grid) -> Recipe:
    """What all cells of a grid depend on."""
    return {"notebook": grid.notebook.stem, "content": grid.content}


def items(grid: Grid) -> list[Item]:
    """The cells as items of a store."""
    return [Item(cell.id, (f"{cell.id}.ipynb",), of=dict(cell.parameters)) for cell in grid.cells]


class _Runner:
    """Makes cells for the store."""

    def __init__(
        self,
        project: Path,
        grid: Grid,
        folder: Path,
        log: Tracker,
        say: Callable[[str], object],
    ) -> None:
        self.project, self.grid, self.folder, self.log, self.say = project, grid, folder, log, say
        self.cells = {cell.id: cell for cell in grid.cells}

    def make(self, name: str) -> dict[str, Any]:
        """The executed notebook of a cell, and the seconds that it took; InputError if it fails."""
        cell = self.cells[name]
        title = ", ".join(f"{key}={value}" for key, value in cell.varied.items())
        number = [*self.cells].index(name) + 1
        heading = f"{self.grid.name}, {number} of {len(self.cells)}: {title}"
        self.say(heading)
        start = time.perf_counter()
        try:
            with (
                self.log.child(title, cell.parameters) as run,
                tempfile.TemporaryDirectory(prefix="ablation-") as scratch,
            ):
                written = Path(scratch) / f"{name}.ipynb"
                try:
                    with _shown_under(run):
                        notebook = _execute(self.project, self.grid, cell, written)
                finally:  # also of a notebook that failed: it shows where
                    if written.is_file():
                        run.log_artifact(written)
                seconds = round(time.perf_counter() - start, 1)
                run.log_metrics({**figures(notebook), "seconds": seconds})
        except InputError as error:
            self.say(f"    failed: {error.reason}")
            raise
        self.say(f"    {seconds:.0f} s")
        return {"notebook": notebook, "seconds": seconds, "run": run_id(run)}

    def finish(self, name: str, made: dict[str, Any]) -> dict[str, Any]:
        """Writes an executed notebook, and says how it came about."""
        import nbformat

        path = self.folder / f"{name}.ipynb"
        write_whole(path, lambda part: nbformat.write(made["notebook"], part))
        return {"seconds": made["seconds"], "run": made["run"]}


def _execute(project: Path, grid: Grid, cell: Cell, written: Path) -> Any:
    """Executes a notebook; papermill keeps ``written`` up to date while it runs.

    Raises InputError with the notebook's own words if one of its cells, or its kernel, fails.
    """
    import papermill
    from nbclient.exceptions import DeadKernelError
    from papermill.exceptions import PapermillExecutionError
    from traitlets.config import Config as Traits

    # Sockets beside it: no port that others could try, and nothing left in the project.
    manager = {"transport": "ipc", "ip": str(written.with_name("socket"))}
    try:
        return papermill.execute_notebook(
            str(grid.notebook),
            str(written),
            parameters={PROJECT: str(project), **cell.parameters},
            kernel_name="python3",
            progress_bar=False,
            cwd=str(project),
            config=Traits({"KernelManager": manager}),
        )
    except PapermillExecutionError as error:
        said = f"{error.ename}: {error.evalue}" if error.evalue else _last_words(written)
        reason = re.sub(r"\s+", " ", said).strip()
        raise InputError(grid.notebook, f"cell [{error.exec_count}]", reason) from error
    except DeadKernelError as error:
        reason = "its kernel died; if it ran out of memory, make the cell smaller"
        raise InputError(grid.notebook, "kernel", reason) from error


def _last_words(written: Path) -> str:
    """What a failed notebook shows of its error, where that was drawn (Kedro brings rich)."""
    cells = json.loads(written.read_text("utf-8"))["cells"]
    outputs = [output for cell in cells for output in cell.get("outputs", ())]
    texts = ["".join(output.get("data", output).get("text/plain", ())) for output in outputs]
    lines = [line.strip() for line in re.sub(r"\x1b\[[\d;]*m", "", "\n".join(texts)).splitlines()]
    kept = [line for line in lines if line and line != HINT]
    named = [place for place, line in enumerate(kept) if re.match(r"[\w.]+: ", line)]
    return "\n".join(kept[named[-1] :]) if named else "it shows what"


def figures(notebook: Mapping[str, Any]) -> dict[str, float]:
    """What the tables of an executed notebook measured: ``"row/column" -> mean``.

    Where there are several tables, each one's name stands before.
    """
    outputs = [output for cell in notebook["cells"] for output in cell.get("outputs", ())]
    shown = [output["data"][TABLE] for output in outputs if TABLE in output.get("data", ())]
    found: dict[str, float] = {}
    for table in shown:
        place = f"{table['table']}/" if len(shown) > 1 else ""
        for row in table["rows"]:
            found |= numbers(row["mean"], f"{place}{row['name']}")
    return found


@contextmanager
def parent_run(project: Path, grid: Grid, folder: Path) -> Iterator[Tracker]:
    """The run of a grid, in which a later call goes on; one that forgets where nothing is logged.

    Its id is noted in the grid's folder.
    """
    loader = MachineConfigLoader(str(project / "conf"), **LOADER_ARGS)
    config = RunLogConfig.model_validate(dict(loader["mlflow"]))
    if config.store is None:
        yield Tracker()
        return
    before = (read_json(folder / NOTE) or {}).get("run")
    log = MlflowTracker.start(
        uri=config.store,
        experiment=config.experiment,
        name=f"ablate {grid.name}",
        project=project,
        parent=os.environ.get(PARENT_RUN),
        again=before,
    )
    if log.run_id is not None:
        _note(folder, {"run": log.run_id})
    log.set_tags({**code_version(project), "notebook": grid.notebook.stem})
    log.log_artifact(grid.file)
    status = "KILLED"
    try:
        yield log
        status = "FINISHED"
    except Exception:
        status = "FAILED"
        raise
    finally:
        log.end(status)


def run_id(run: Tracker) -> str | None:
    """The id of a run that is logged."""
    return run.run_id if isinstance(run, MlflowTracker) else None


@contextmanager
def _shown_under(run: Tracker) -> Iterator[None]:
    """Within it, runs of processes that are started are shown under ``run``."""
    name, before = run_id(run), os.environ.get(PARENT_RUN)
    if name is not None:
        os.environ[PARENT_RUN] = name
    try:
        yield
    finally:
        if before is None:
            os.environ.pop(PARENT_RUN, None)
        else:
            os.environ[PARENT_RUN] = before
