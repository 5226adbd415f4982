"""What `make png_train` installs is enough for everything that the README shows."""

from __future__ import annotations

import ast
import json
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import PackageNotFoundError, distribution, packages_distributions
from pathlib import Path

import pytest
from packaging.requirements import Requirement
from packaging.utils import canonicalize_name

#: What is taken where it is installed, and has a stand-in, or says what to do, where it is not.
OPTIONAL = {"pydensecrf", "ray", "supervision"}


@pytest.fixture(scope="module")
def base(root: Path) -> set[str]:
    """The packages that `pip install -e .` brings, with what those bring."""
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    found: set[str] = set()
    wanted = [Requirement(text) for text in project["dependencies"]]
    while wanted:
        requirement = wanted.pop()
        name = canonicalize_name(requirement.name)
        marker = requirement.marker
        if name in found or (marker and not marker.evaluate({"extra": ""})):
            continue
        found.add(name)
        try:
            wanted += map(Requirement, distribution(name).requires or ())
        except PackageNotFoundError:
            continue  # of another system
    return found


def test_what_is_imported_is_installed_by_default(root: Path, base: set[str]) -> None:
    owners = packages_distributions()
    imported: dict[str, str] = {}
    for path in sorted((root / "src").rglob("*.py")):
        imported |= {name: path.name for name in modules(path.read_text("utf-8"))}
    for path in sorted((root / "notebooks").glob("*.ipynb")):
        cells = json.loads(path.read_text("utf-8"))["cells"]
        code = ["".join(cell["source"]) for cell in cells if cell["cell_type"] == "code"]
        imported |= {name: path.name for name in modules("\n".join(code))}
    ours = sys.stdlib_module_names | OPTIONAL | {"diffground"}
    assert {"torch", "PIL", "textblob"} <= set(imported)
    for module, where in imported.items():
        if module not in ours:
            made_by = {canonicalize_name(name) for name in owners[module]}
            assert made_by & base, f"{where} imports {module}, which only an extra installs"


def test_commands_of_the_readme_are_installed_by_default(root: Path, base: set[str]) -> None:
    text = (root / "README.md").read_text("utf-8")
    commands = {*re.findall(r"(?m)^\| `([a-z]+) [^`]+`", text), *re.findall(r"(?m)^\$ (\w+)", text)}
    commands -= {"make"}
    assert {"kedro", "papermill", "diffground"} <= commands
    scripts = {
        entry.name
        for name in base
        for entry in distribution(name).entry_points
        if entry.group == "console_scripts"
    }
    project = tomllib.loads((root / "pyproject.toml").read_text("utf-8"))["project"]
    assert commands <= scripts | project["scripts"].keys()


def test_hints_can_be_typed(root: Path) -> None:
    """diffground is on no index, so `pip install diffground[...]` finds nothing."""
    files = [p for d in ("src", "conf", "notebooks") for p in (root / d).rglob("*") if p.is_file()]
    for path in [*files, root / "README.md", root / "Makefile"]:
        if path.suffix in {".py", ".yml", ".md", ".ipynb", ""}:
            assert not re.search(r"install\W+diffground", path.read_text("utf-8")), path


def modules(code: str) -> Iterator[str]:
    """The top-level names of what a source imports, now or later."""
    for node in ast.walk(ast.parse(code)):
        if isinstance(node, ast.Import):
            yield from (alias.name.partition(".")[0] for alias in node.names)
        elif isinstance(node, ast.ImportFrom) and node.module and not node.level:
            yield node.module.partition(".")[0]
