"""Pages of the code: a page a room of the package, made of docstrings by mkdocstrings.

Public names only: what begins with an underscore, and what has no docstring, is left out.
"""

from __future__ import annotations

import ast
import re
import tomllib
from functools import cache
from pathlib import Path

FOLDER = "reference"  # in the site's sources
PACKAGE = "diffground"
SOURCE = f"src/{PACKAGE}"
GROUND = "ground"  # the page of all modules that are no folders
#: Thin layers about Kedro and the console, which have no names that anybody would call.
LEFT_OUT = {"__main__", "adapters", "cli", "console", "pipelines", "settings", "pipeline_registry"}

FACE = """# The public face

What `from diffground import ...` gives. All else is on the pages of the rooms, which stand in the
order in which they may know each other, from ground to roof. Names with an underscore are nobody's
but their module's.

| name | what it is |
| --- | --- |
"""
_ROLE = re.compile(r":(?:class|func|meth|mod|attr|data|exc|obj):<code>~?([\w.]+)</code>")
_NAMED = re.compile(r"`(diffground[\w.]*):([\w.]+)`")
_MODULE = re.compile(r"`(diffground(?:\.\w+)+)`")


@cache
def rooms(project: Path) -> dict[str, tuple[str, ...]]:
    """Room -> its modules by their full names, from ground to roof; each paper is a room."""
    source = project / SOURCE
    found: dict[str, list[str]] = {}
    for path in sorted(source.rglob("*.py")):
        parts = path.relative_to(source).with_suffix("").parts
        names = parts[:-1] if parts[-1] == "__init__" else parts
        if names and names[0] not in LEFT_OUT and _says_something(path):
            found.setdefault(_room(names, source), []).append(".".join((PACKAGE, *names)))
    order = _layers(project)
    height = {room: order.index(room.partition(".")[0]) for room in found if room != GROUND}
    return {room: tuple(found[room]) for room in sorted(found, key=lambda r: height.get(r, -1))}


def pages(project: Path) -> dict[str, str]:
    """Path in the site's sources -> Markdown: the public face, then a page a room."""
    face = [f"| [`{name}`][{home}.{name}] | {words} |\n" for name, home, words in _face(project)]
    made = {f"{FOLDER}/README.md": FACE + "".join(face)}
    for room, modules in rooms(project).items():
        title = "Modules that all rooms use" if room == GROUND else f"{PACKAGE}.{room}"
        made[f"{FOLDER}/{room}.md"] = "\n".join([f"# {title}\n", *(f"::: {m}\n" for m in modules)])
    return made


def with_code_links(text: str, project: Path) -> str:
    """``module:name`` of a written page, and modules, as references to the pages of the code."""
    known = {module for each in rooms(project).values() for module in each}

    def reference(match: re.Match[str]) -> str:
        if match[1] not in known:
            return match[0]
        name = match[2] if match.re is _NAMED else match[1]
        there = f"{match[1]}.{name}" if match.re is _NAMED else name
        return f'<autoref identifier="{there}" optional><code>{name}</code></autoref>'

    return _MODULE.sub(reference, _NAMED.sub(reference, text))


def with_roles(html: str) -> str:
    """Roles of docstrings, ``:class:`~a.b.C``` , as references by the last part of the name."""

    def reference(match: re.Match[str]) -> str:
        shown = f"<code>{match[1].rpartition('.')[2]}</code>"
        return f'<autoref identifier="{match[1]}" optional>{shown}</autoref>'

    return _ROLE.sub(reference, html)


def _room(names: tuple[str, ...], source: Path) -> str:
    if not (source / names[0]).is_dir():
        return GROUND
    return ".".join(names[:2]) if names[0] == "papers" else names[0]


def _says_something(path: Path) -> bool:
    """Whether the module defines something public; or is a room, and says what it is for."""
    tree = ast.parse(path.read_text("utf-8"))
    defined = (ast.FunctionDef, ast.ClassDef)
    public = any(isinstance(n, defined) and not n.name.startswith("_") for n in tree.body)
    return public or (path.name == "__init__.py" and path.parent.name != "papers")


def _layers(project: Path) -> list[str]:
    """The rooms from ground to roof, as import-linter holds them."""
    settings = tomllib.loads((project / "pyproject.toml").read_text("utf-8"))
    contracts = {each["id"]: each for each in settings["tool"]["importlinter"]["contracts"]}
    return re.split(r"[ :|]+", " : ".join(reversed(contracts["rooms"]["layers"])))


def _face(project: Path) -> list[tuple[str, str, str]]:
    """Public name, the module that it comes from, and the first line of its docstring."""
    tree = ast.parse((project / SOURCE / "__init__.py").read_text("utf-8"))
    homes = {
        alias.name: str(node.module)
        for node in ast.walk(tree)
        if isinstance(node, ast.ImportFrom) and str(node.module).startswith(f"{PACKAGE}.")
        for alias in node.names
    }
    return [(name, home, _first_line(project, home, name)) for name, home in sorted(homes.items())]


def _first_line(project: Path, module: str, name: str) -> str:
    tree = ast.parse((project / "src" / Path(*module.split("."))).with_suffix(".py").read_text())
    body = next(n for n in tree.body if isinstance(n, ast.ClassDef) and n.name == name)
    return (ast.get_docstring(body) or "").partition("\n")[0].replace("`", "")
