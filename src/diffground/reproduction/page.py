"""The report as one page of HTML that needs nothing else: no file, no script, no network."""

from __future__ import annotations

import base64
import json
import re
from collections import Counter
from collections.abc import Iterable, Mapping
from functools import partial
from pathlib import Path
from typing import Any, Final, get_args

from jinja2 import Environment, FileSystemLoader, StrictUndefined
from markupsafe import Markup, escape

from diffground.experiments.result_tables import (
    Ordering,
    ResultRow,
    figure_text,
    places_of,
)
from diffground.io.paths import slug
from diffground.progress import duration
from diffground.reporting.scale import SCALE_WORDS
from diffground.reproduction.gather import Report, ReportItem, ReportPart, State

#: How an ordering came out, in the order of the page.
VERDICTS: Final = ("holds", "holds within its deviation", "fails within its deviation", "fails",
                   "not measured")  # fmt: skip


def render(report: Report) -> str:
    """The page, UTF-8 HTML."""
    here = Path(__file__).parent
    environment = Environment(
        loader=FileSystemLoader(here),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "anchor": anchor,
        "heading": heading,
        "base64": lambda data: base64.b64encode(data).decode(),
        "brief": brief,
        "code": code,
        "css": slug,
        "duration": duration,
        "doubtful": lambda count: any(count[word] for word in VERDICTS if "fails" in word),
        "figure": figure_text,
        "measured": measured,
        "places": places_of,
        "pretty": partial(json.dumps, indent=1, ensure_ascii=False),
        "settings": settings,
        "short": short,
        "verdict": verdict,
        "verdicts": verdicts,
        "states": states,
    }
    words = {"report": report, "states": get_args(State), "verdicts": VERDICTS}
    css = (here / "page.css").read_text("utf-8")
    page = environment.get_template("page.html")
    return page.render(**words, scales=SCALE_WORDS, css=Markup(css))


def heading(item: ReportItem) -> str:
    """What the paper calls it, and what it is."""
    return f"{item.label}: {item.title}" if item.label else f"Ours: {item.title}"


def anchor(item: ReportItem, part: ReportPart) -> str:
    """Where on the page it is."""
    return slug(f"{part.name} {item.label or item.title}")


def brief(item: ReportItem) -> str:
    """As the table of contents has it."""
    return item.label or item.title


def states(part: ReportPart) -> Counter[State]:
    """How many of a paper's own tables and figures are in which state."""
    return Counter(item.state for item in part.items if item.label)


def verdict(entry: Ordering) -> str:
    """One of :data:`VERDICTS`. A gap that is no larger than its deviation may be chance."""
    if entry.holds is None:
        return "not measured"
    word = "holds" if entry.holds else "fails"
    return f"{word} within its deviation" if entry.within else word


def verdicts(entries: Iterable[Ordering]) -> Counter[str]:
    """How many orderings came out how."""
    return Counter(map(verdict, entries))


def measured(row: ResultRow, column: str, places: int) -> str:
    """Mean and deviation of a cell."""
    text = figure_text(row.mean.get(column), places)
    return f"{text} ± {row.sd[column]:.{places}f}" if row.sd.get(column) is not None else text


def short(commit: str) -> str:
    """Ten digits of each commit, and its mark."""
    return re.sub(r"\b([0-9a-f]{10})[0-9a-f]{30}\b", r"\1", commit)


def settings(content: Mapping[str, Any], above: str = "") -> str:
    """Nested settings on one line: ``model.insertion=none, model.decode=false``."""
    told = []
    for name, value in content.items():
        if isinstance(value, Mapping) and value:
            told.append(settings(value, f"{above}{name}."))
        else:
            told.append(f"{above}{name}={json.dumps(value, ensure_ascii=False)}")
    return ", ".join(told)


def code(text: str) -> Markup:
    """A note, with what stands in backticks set as code."""
    return Markup(re.sub(r"`([^`]+)`", r"<code>\1</code>", str(escape(text))))
