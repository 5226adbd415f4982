"""Grid files, ``conf/ablations/<name>.yml``: a notebook, and lists of parameters for it.

A file says which notebook, what all cells have in common, and what varies; its cells are the
product of the lists, the last one fastest::

    notebook: png_components
    parameters: {max_steps: 300}
    grid:
      protocol: [original, ppmn]
      seeds: ["0", "1", "2"]
"""

from __future__ import annotations

import ast
import hashlib
import itertools
import json
import logging
from collections.abc import Mapping
from dataclasses import dataclass
from pathlib import Path
from typing import Annotated, Any

import yaml
from pydantic import Field, StrictBool, StrictFloat, StrictInt, StrictStr, ValidationError

from diffground.adapters.hooks.checks import nearest
from diffground.config import Config, refused
from diffground.errors import InputError, shortened
from diffground.io.files import load_json
from diffground.io.paths import slug

GRIDS = "conf/ablations"
NOTEBOOKS = "notebooks"
PROJECT = "project"  # the parameter that says where the repository is; the runner gives it

Value = StrictBool | StrictInt | StrictFloat | StrictStr
Values = Annotated[tuple[Value, ...], Field(min_length=1)]


class GridFile(Config):
    """The content of a grid file."""

    notebook: str  # its name in notebooks/
    parameters: dict[str, Value] = Field(default_factory=dict)  # of all cells
    grid: Annotated[dict[str, Values], Field(min_length=1)]  # lists, whose product the cells are


@dataclass(frozen=True)
class Cell:
    """One combination of a grid."""

    id: str  # names its files: what varies, and digits that tell it from others that read alike
    varied: Mapping[str, Any]
    parameters: Mapping[str, Any]  # all that the notebook is given but the project


@dataclass(frozen=True)
class Grid:
    """A grid file that was read and held against its notebook."""

    name: str
    file: Path
    notebook: Path
    content: str  # hash of what the notebook's cells say: outputs and ids don't count
    cells: tuple[Cell, ...]


def names(project: Path) -> list[str]:
    """The grids of a project."""
    return sorted(path.stem for path in (project / GRIDS).glob("*.yml"))


def read_grid(project: Path, asked: str) -> Grid:
    """The grid of a name in ``conf/ablations``, or of a file.

    Raises:
        InputError: there is no such grid, or its file, or it names a notebook that is not there,
            or a parameter that the notebook lacks or has of another kind, or a cell twice.
    """
    file = Path(asked) if asked.endswith((".yml", ".yaml")) else project / GRIDS / f"{asked}.yml"
    if not file.is_file():
        raise InputError(asked, "grid", f"there is no such grid; {nearest(asked, names(project))}")
    try:
        content = GridFile.model_validate(yaml.safe_load(file.read_text("utf-8")))
    except ValidationError as error:
        raise refused(file, error) from error
    except (yaml.YAMLError, UnicodeDecodeError, RecursionError) as error:
        raise InputError(file, "YAML", shortened(" ".join(str(error).split()))) from error
    notebook = project / NOTEBOOKS / f"{content.notebook}.ipynb"
    if not notebook.is_file():
        raise InputError(file, "notebook", f"{NOTEBOOKS} has none of the name {content.notebook}")
    _check(file, content, notebook)
    cells = [
        _cell(dict(zip(content.grid, values, strict=True)), content.parameters)
        for values in itertools.product(*content.grid.values())
    ]
    if len({cell.id for cell in cells}) < len(cells):
        raise InputError(file, "grid", "a list has a value twice")
    return Grid(file.stem, file, notebook, _content(notebook), tuple(cells))


def _cell(varied: dict[str, Any], common: Mapping[str, Any]) -> Cell:
    """Its name does not change when other values join the lists."""
    parameters = {**common, **varied}
    digits = hashlib.sha256(json.dumps(parameters, sort_keys=True).encode()).hexdigest()[:6]
    words = slug(" ".join(f"{name} {value}" for name, value in varied.items()))
    return Cell(f"{words}-{digits}", varied, parameters)


def _check(file: Path, content: GridFile, notebook: Path) -> None:
    """Papermill only warns of a parameter that a notebook does not have."""
    known = _defaults(notebook)
    possible = sorted(known.keys() - {PROJECT})
    given = [("parameters", name, [value]) for name, value in content.parameters.items()]
    given += [("grid", name, list(values)) for name, values in content.grid.items()]
    for where, name, values in given:
        if name not in possible:
            reason = f"no parameter of {notebook.name}; {nearest(name, possible)}"
            raise InputError(file, f"{where}.{name}", reason)
        kind = type(known[name])
        if any(type(value) is not kind for value in values):
            reason = f"{notebook.name} takes {kind.__name__} there, {known[name]!r} if nothing else"
            raise InputError(file, f"{where}.{name}", reason)
    if twice := content.parameters.keys() & content.grid.keys():
        raise InputError(file, f"grid.{min(twice)}", "parameters has it as well; take one away")


def _defaults(notebook: Path) -> dict[str, Any]:
    """The parameters of a notebook with the values that it has itself."""
    import papermill

    logging.getLogger("papermill.translators").setLevel("ERROR")
    found = papermill.inspect_notebook(str(notebook))
    return {name: ast.literal_eval(about["default"]) for name, about in found.items()}


def _content(notebook: Path) -> str:
    """The hash of what a notebook does: kinds, tags and sources of its cells, in order."""
    cells = load_json(notebook)["cells"]
    said = [
        (cell["cell_type"], cell["metadata"].get("tags", []), "".join(cell["source"]))
        for cell in cells
    ]
    return hashlib.sha256(json.dumps(said).encode()).hexdigest()
