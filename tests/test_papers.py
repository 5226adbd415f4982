"""catalog_docs/papers.md names code, commands, notebooks and tables that there are."""

from __future__ import annotations

import importlib
import json
import re
from functools import reduce
from pathlib import Path

import pytest

from diffground.pipeline_registry import PIPELINES

ROOT = Path(__file__).parents[1]
TEXT = (ROOT / "catalog_docs/papers.md").read_text("utf-8")
TABLES = sorted((ROOT / "src/diffground/papers").glob("*/*paper_tables.json"))


@pytest.mark.parametrize("name", sorted(set(re.findall(r"`(diffground[\w.]*:[\w.]+)`", TEXT))))
def test_code_is_where_it_is_said_to_be(name: str) -> None:
    module, _, path = name.partition(":")
    found = reduce(getattr, path.split("."), importlib.import_module(module))
    home = getattr(found, "__module__", module)
    assert home == module, f"{name} is only imported there, from {home}"
    assert found.__doc__, name


def test_commands_and_notebooks_are_there() -> None:
    commands = re.findall(r"`kedro run --pipelines (\w+)`", TEXT)
    assert commands and set(commands) <= set(PIPELINES)
    named = set(re.findall(r"`(notebooks/\w+\.ipynb)`", TEXT))
    assert named == {path.relative_to(ROOT).as_posix() for path in ROOT.glob("notebooks/*.ipynb")}


def test_every_table_has_a_notebook() -> None:
    """Which asks for it by its name in the pipeline's parameters."""
    notebooks = [json.loads(path.read_text("utf-8")) for path in ROOT.glob("notebooks/*.ipynb")]
    cells = ["".join(cell["source"]) for notebook in notebooks for cell in notebook["cells"]]
    calls = [re.search(r"run_tables\(\s*root,\s*\"(\w+)\",.*?\[([^\]]*)\]", c, re.S) for c in cells]
    asked = {
        (call[1], name) for call in calls if call for name in re.findall(r"\"(\w+)\"", call[2])
    }
    for file in TABLES:
        prefix = file.stem.removesuffix("paper_tables").strip("_") or file.parent.name
        for name in json.loads(file.read_text("utf-8"))["tables"]:
            if name != "similarity":  # Figure D.9, which is made beside any
                assert (f"{prefix}_tables", name) in asked, f"{file}: {name}"


def test_every_table_and_equation_is_named() -> None:
    assert len(TABLES) == 5
    for file in TABLES:
        for table in json.loads(file.read_text("utf-8"))["tables"].values():
            assert table["table"] in TEXT, f"{file}: {table['table']}"
    spans = re.findall(r"eq\. (\d+)(?:(?: to|,) (\d+))?", TEXT.partition("## From Text")[0])
    numbers = {n for a, b in spans for n in range(int(a), int(b or a) + 1)}
    assert numbers == set(range(1, 15))
