"""The index of executed notebooks: one page that needs no network, and a page per notebook.

The index has a card for each cell of each grid: the notebook's first picture, what the cell varied,
what its tables measured, and how long it took; or why it failed.
"""

from __future__ import annotations

import base64
import io
import json
import logging
import re
from collections.abc import Iterator, Mapping, Sequence
from html import escape
from pathlib import Path
from typing import Any

from PIL import Image

from diffground.adapters.ablations.grids import Grid, names
from diffground.adapters.ablations.running import (
    INDEX,
    PAGES,
    figures,
    folder_of,
    items,
    recipe,
)
from diffground.errors import Problem
from diffground.io.files import write_whole
from diffground.progress import duration
from diffground.store.items import finished_notes
from diffground.store.reports import Note, read_report

THUMBNAIL = (420, 260)  # pixels at most, wide and high
MOST_FIGURES = 6  # of a card; the page has the table

_STYLE = """
body { font: 15px/1.5 system-ui, sans-serif; color: #222; background: #f4f4f2; margin: 0; }
main { max-width: 1180px; margin: 0 auto; padding: 1.5rem; }
h1, h2, h3 { line-height: 1.2; }
a { color: #1a5f7a; }
code, pre { font: 13px/1.45 ui-monospace, monospace; }
img { max-width: 100%; }
.about { color: #666; }
"""
_CARDS = """
.cards { display: grid; grid-template-columns: repeat(auto-fill, minmax(270px, 1fr)); gap: 1rem; }
.card { background: #fff; border: 1px solid #ddd; border-radius: 6px; overflow: hidden; }
.card .picture { display: flex; height: 180px; align-items: center; justify-content: center;
  background: #fafafa; border-bottom: 1px solid #eee; color: #999; text-decoration: none; }
.card img { max-height: 172px; }
.card .text { padding: .6rem .8rem; }
.card table { border-collapse: collapse; width: 100%; font-size: 13px; }
.card td { padding: .1rem .4rem .1rem 0; vertical-align: top; }
.card td:last-child { text-align: right; font-variant-numeric: tabular-nums; }
.card .varied td:last-child, .card .measured td:first-child { overflow-wrap: anywhere; }
.card .measured td { color: #555; }
.failed { border-color: #c0392b; }
.failed .reason { color: #c0392b; overflow-wrap: anywhere; }
"""
_NOTEBOOK = """
.jp-InputPrompt, .jp-OutputPrompt, .prompt, .anchor-link { display: none; }
.highlight { background: #fff; border: 1px solid #e2e2de; padding: .1rem .8rem; overflow-x: auto; }
table { border-collapse: collapse; font-size: 13px; background: #fff; }
th, td { border: 1px solid #e2e2de; padding: .2rem .6rem; }
"""


def write_pages(project: Path, grids: Sequence[Grid]) -> Path:
    """Writes the index, and the pages that are missing or older than their notebooks.

    Args:
        grids: of the project, in the order of the index. Those that never ran have no cards.

    Returns:
        The index.
    """
    parts = [_section(project, grid) for grid in grids if folder_of(project, grid.name).is_dir()]
    nothing = "<p>No grid was run yet: <code>diffground ablate</code> names them.</p>"
    body = f"<h1>Ablations</h1>\n{''.join(parts) or nothing}"
    return _write(project / INDEX, "Ablations", body, _CARDS)


def _section(project: Path, grid: Grid) -> str:
    """The cards of a grid."""
    folder = folder_of(project, grid.name)
    notes = finished_notes(folder, recipe(grid), items(grid))
    problems = _problems(folder)
    cards = []
    for cell in grid.cells:
        if cell.id in notes:
            cards.append(_card(project, grid, cell.id, cell.varied, notes[cell.id]))
        elif cell.id in problems:
            reason = f'<p class="reason">{escape(problems[cell.id].reason)}</p>'
            text = f'<div class="text">{_rows(cell.varied)}{reason}</div>'
            cards.append(f'<div class="card failed"><div class="picture">failed</div>{text}</div>')
    said = f"{len(notes)} of {len(grid.cells)} cells are finished"
    own = grid.name in names(project)
    command = f"diffground ablate {grid.name if own else grid.file}"
    about = f"<code>{grid.notebook.name}</code>, {said}: <code>{escape(command)}</code>"
    return (
        f'<section id="{escape(grid.name)}"><h2>{escape(grid.name)}</h2>'
        f'<p class="about">{about}</p><div class="cards">{"".join(cards)}</div></section>\n'
    )


def _card(project: Path, grid: Grid, name: str, varied: Mapping[str, Any], note: Note) -> str:
    """One executed notebook, with the link to its page, which is written if it has to be."""
    source = folder_of(project, grid.name) / f"{name}.ipynb"
    notebook = json.loads(source.read_text("utf-8"))
    page = project / PAGES / grid.name / f"{name}.html"
    if not page.is_file() or page.stat().st_mtime_ns < source.stat().st_mtime_ns:
        _export(page, grid, source, varied, (project / INDEX).relative_to(project))
    link = page.relative_to((project / INDEX).parent).as_posix()
    own = source.relative_to((project / INDEX).parent).as_posix()
    picture = _thumbnail(notebook)
    image = f'<img alt="" src="{picture}">' if picture else "no picture"
    measured = list(figures(notebook).items())
    shown = {key: f"{value:.4g}" for key, value in measured[:MOST_FIGURES]}
    more = len(measured) - len(shown)
    rest = f'<p class="about">and {more} figures more</p>' if more else ""
    about = f"{duration(note.about['seconds'])}, <a href='{escape(own)}'>notebook</a>"
    return (
        f'<div class="card"><a class="picture" href="{escape(link)}">{image}</a>'
        f'<div class="text">{_rows(varied)}{_rows(shown, "measured")}{rest}'
        f'<p class="about">{about}</p></div></div>'
    )


def _rows(values: Mapping[str, Any], kind: str = "varied") -> str:
    """Names and values, a line each."""
    lines = [
        f"<tr><td>{escape(name)}</td><td>{_breaking(escape(str(value)))}</td></tr>"
        for name, value in values.items()
    ]
    return f'<table class="{kind}">{"".join(lines)}</table>'


def _breaking(text: str) -> str:
    """A long list of parameters, which may go on in a new line behind a comma or a dot's name."""
    return re.sub(r"([,;]|\.(?=[a-z]))", r"\1<wbr>", text)


def _export(page: Path, grid: Grid, source: Path, varied: Mapping[str, Any], index: Path) -> None:
    """An executed notebook as a page."""
    import nbformat
    from nbconvert import HTMLExporter
    from pygments.formatters import HtmlFormatter

    logging.getLogger("traitlets").setLevel("ERROR")  # notebooks' pictures have no words
    notebook = nbformat.read(source, as_version=4)
    body, _ = HTMLExporter(template_name="basic").from_notebook_node(notebook)
    back = "../" * 2 + index.name
    said = ", ".join(f"{name} = {value}" for name, value in varied.items())
    head = f'<p class="about"><a href="{back}">Ablations</a> · {escape(grid.name)} · {escape(said)}'
    colours = HtmlFormatter(style="friendly").get_style_defs(".highlight")
    title = f"{grid.name}: {said}"
    _write(page, title, f"{head}</p>\n{body}", f"{colours}\n{_NOTEBOOK}")


def _write(path: Path, title: str, body: str, style: str) -> Path:
    """A page with all that it needs in it."""
    text = (
        '<!DOCTYPE html>\n<html lang="en"><head><meta charset="utf-8">\n'
        '<meta name="viewport" content="width=device-width, initial-scale=1">\n'
        f"<title>{escape(title)}</title>\n<style>{_STYLE}{style}</style></head>\n"
        f"<body><main>\n{body}\n</main></body></html>\n"
    )
    return write_whole(path, lambda part: part.write_text(text, encoding="utf-8"))


def _thumbnail(notebook: Mapping[str, Any]) -> str | None:
    """The last picture of an executed notebook, small, as the address of an image.

    Notebooks begin with what all cells of a grid have, and end with what was found.
    """
    pictures = list(_pictures(notebook))
    if not pictures:
        return None
    content = io.BytesIO(base64.b64decode(pictures[-1]))
    image = Image.open(content, formats=["PNG"]).convert("RGB")
    image.thumbnail(THUMBNAIL, Image.Resampling.LANCZOS)
    written = io.BytesIO()
    image.save(written, "PNG", optimize=True)
    return f"data:image/png;base64,{base64.b64encode(written.getvalue()).decode()}"


def _pictures(notebook: Mapping[str, Any]) -> Iterator[str]:
    for cell in notebook["cells"]:
        for output in cell.get("outputs", ()):
            if "image/png" in output.get("data", ()):
                yield "".join(output["data"]["image/png"])


def _problems(folder: Path) -> dict[str, Problem]:
    """Why cells failed that were asked for last."""
    entries = (entry for path in folder.glob("shard-*.jsonl") for entry in read_report(path)[0])
    return {entry.item: entry for entry in entries if isinstance(entry, Problem)}
