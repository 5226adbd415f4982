"""Links of the written pages: which files and headings they name, and where those are in the site.

On a code host the pages are read where they lie, so their links are those of the repository, and
files outside of ``catalog_docs/`` are linked like others. The site has a page of its own for each
of those (``repository/...``), so that it is whole without the repository and without a network.
"""

from __future__ import annotations

import json
import os
import posixpath
import re
from collections.abc import Callable, Iterator
from pathlib import Path

PAGES = "catalog_docs"  # where the written pages are, in the project
COPIES = "repository"  # where the site has the project's other files

_FENCE = r"(?P<fence>^ *```.*?^ *```)"
_LINK = r"(?P<open>\]\()(?P<target>[^)\s#]*)(?P<anchor>#[^)\s]*)?\)"
_FENCE_OR_LINK = re.compile(f"{_FENCE}|{_LINK}", re.MULTILINE | re.DOTALL)
_REMOTE = re.compile(r"[a-z][a-z0-9+.-]*:", re.IGNORECASE)
_LANGUAGES = {".py": "python", ".yml": "yaml", ".toml": "toml", ".json": "json", ".ipynb": "python"}


def links(text: str) -> Iterator[tuple[str, str]]:
    """Target and ``#anchor`` of every link of a Markdown text that leads to a file or a heading."""
    for match in _FENCE_OR_LINK.finditer(text):
        if match["fence"] is None and not _REMOTE.match(match["target"]):
            yield match["target"], match["anchor"] or ""


def resolved(target: str, source: str) -> str:
    """The path in the project of what ``source``, a path in it, links to as ``target``."""
    return posixpath.normpath(posixpath.join(posixpath.dirname(source), target))


def relinked(text: str, source: str, place: Callable[[str], str]) -> str:
    """The text with its links as MkDocs wants them.

    Args:
        text: Markdown of the file ``source``, a path in the project.
        place: path in the project -> path in the site's sources, see :func:`page_of`.
    """

    def moved(match: re.Match[str]) -> str:
        target, anchor = match["target"], match["anchor"] or ""
        if match["fence"] is not None or not target or _REMOTE.match(target):
            return match[0]
        there = place(resolved(target, source))
        relative = posixpath.relpath(there, posixpath.dirname(place(source)) or ".")
        return f"]({relative}{anchor})"

    return _FENCE_OR_LINK.sub(moved, text)


def page_of(path: str) -> str:
    """Where the site's sources have a file of the project: ``conf/README.md`` is a copy."""
    inside = path.removeprefix(f"{PAGES}/")
    if inside != path:
        return inside
    return f"{COPIES}/{path}" if path.endswith(".md") else f"{COPIES}/{path}.md"


def copies(project: Path) -> dict[str, str]:
    """Markdown of each file outside of the written pages that these, or such a file, link to.

    Keys are paths in the site's sources, links are as in the file itself.
    """
    waiting = [path.relative_to(project).as_posix() for path in pages(project)]
    found: dict[str, str] = {}
    while waiting:
        source = waiting.pop()
        for target, _ in links(_markdown(project, source)):
            path = resolved(target, source)
            outside = target and not path.startswith(f"{PAGES}/") and path not in found
            if outside and (project / path).is_file():
                found[path] = _markdown(project, path)
                waiting.append(path)
    return found


def pages(project: Path) -> list[Path]:
    """The written pages, sorted."""
    return sorted((project / PAGES).rglob("*.md"))


def dead(project: Path, files: list[Path], slug: Callable[[str], str]) -> list[str]:
    """What is wrong with the links of Markdown files, a line for each.

    A link leads to a file of the project, exactly as it is written, and its anchor to a heading.

    Args:
        files: in the project.
        slug: a heading -> its anchor.
    """
    wrong = []
    for file in files:
        source = file.relative_to(project).as_posix()
        for target, anchor in links(file.read_text("utf-8")):
            path = project / (resolved(target, source) if target else source)
            if not path.is_file() or path.name not in os.listdir(path.parent):
                wrong.append(f"{source}: {target}: there is no such file")
            elif anchor and path.suffix == ".md" and anchor[1:] not in _anchors(path, slug):
                wrong.append(f"{source}: {target}{anchor}: there is no such heading")
    return wrong


def _anchors(path: Path, slug: Callable[[str], str]) -> set[str]:
    text = re.sub(_FENCE, "", path.read_text("utf-8"), flags=re.MULTILINE | re.DOTALL)
    headings = re.findall(r"^#+ +(.+?) *$", text, re.MULTILINE)
    return {slug(re.sub(r"\[(.+?)\]\(.+?\)|[`*]", r"\1", heading)) for heading in headings}


def _markdown(project: Path, source: str) -> str:
    """A file of the project as a page: Markdown as it is, anything else as code."""
    text = (project / source).read_text("utf-8")
    if source.endswith(".md"):
        return text
    if source.endswith(".ipynb"):
        return f"# {source}\n\n" + "\n\n".join(_cells(json.loads(text)["cells"])) + "\n"
    language = _LANGUAGES.get(Path(source).suffix, "text")
    return f"# {source}\n\n````{language}\n{text}````\n"


def _cells(cells: list[dict[str, object]]) -> Iterator[str]:
    for cell in cells:
        source = "".join(map(str, cell["source"] if isinstance(cell["source"], list) else []))
        yield source if cell["cell_type"] == "markdown" else f"````python\n{source}\n````"
