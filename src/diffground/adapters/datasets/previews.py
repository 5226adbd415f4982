"""What Kedro-Viz shows of a selected entry: its words in the catalog, then what it holds now.

Kedro-Viz does not read ``metadata: description``, but it shows what a dataset's ``preview()``
returns. So every entry returns a small page: description, fields, units and size from the catalog,
and below them the picture, the text, or what is in the folder.
"""

from __future__ import annotations

import base64
import html
import json
from itertools import islice
from pathlib import Path
from typing import Any

from kedro_datasets._typing import HTMLPreview

_PICTURES = {".png": "png", ".jpg": "jpeg", ".jpeg": "jpeg"}
_LONGEST = 6000  # characters of a text
_LARGE = 10_000_000  # bytes of a text that is not read to its end
_MOST = 20  # items of a folder
_EXAMPLES = 4  # pictures of a folder
# Kedro-Viz makes pages as wide as its large view (60 % of the window) in the side panel too. There
# a letter is 14 pixels high and not 15, which is what tells the two apart.
_WIDE = "width:calc(400px + (1em - 14px)/0.001);max-width:100%"
# Kedro-Viz reads pages as Markdown too, and would set what stands between two underscores or stars
# of a line in italics. A place to break with a line's end in its title ends that line unseen.
_BREAK = '<wbr title="-&#10;-">'


class Previewed:
    """Gives a Kedro dataset the page that Kedro-Viz shows of it."""

    metadata: dict[str, Any] | None

    def preview(self, show: str = "") -> HTMLPreview:
        """The page as HTML, by Kedro-Viz's own name of that type.

        Args:
            show: pattern of the pictures of a folder that are shown, the first four of them; from
                ``metadata: kedro-viz: preview_args``.
        """
        pictures, text = self._content(show)
        words = self.metadata or {}
        description = escaped(str(words.get("description", "")).strip())
        page = f"<b>{description}</b>{pictures}{_table(words)}{text}"
        return HTMLPreview(f'<div style="{_WIDE}">{page}</div>')

    def _place(self) -> Path | None:
        """The file or folder; None in memory."""
        place = getattr(self, "folder", None) or getattr(self, "_filepath", None)
        return Path(str(place)) if place else None

    def _content(self, show: str) -> tuple[str, str]:
        """What is there now, as HTML: pictures, and text."""
        path = self._place()
        if path is None:
            return "", _line("In memory while a run lasts.")
        if not path.exists():
            return "", _line("Not there yet.")
        if path.is_dir():
            return _pictures(list(islice(path.glob(show), _EXAMPLES)) if show else []), _items(path)
        return (_pictures([path]), "") if path.suffix in _PICTURES else ("", _text(path))


def escaped(text: str) -> str:
    """``text`` so that Kedro-Viz shows it as it is."""
    safe = html.escape(text, quote=False).replace("\n", "<br>")
    return "".join(char + _BREAK if char in "_*" else char for char in safe)


def _table(words: dict[str, Any]) -> str:
    """What the catalog says about what is inside."""
    fields = words.get("fields", {}).items()
    rows = [(f"<code>{escaped(name)}</code>", meaning) for name, meaning in fields]
    rows += [(name, words[name]) for name in ("shape", "units") if name in words]
    rows += [(f"size, {scale}", text) for scale, text in words.get("size", {}).items()]
    cells = (f"<tr><td>{name}</td><td>{escaped(str(text))}</td></tr>" for name, text in rows)
    return f"<table>{''.join(cells)}</table>"


def _line(text: str) -> str:
    return f"<br><i>{escaped(text)}</i>"


def _text(path: Path) -> str:
    """The beginning of a text; JSON on lines of its own, if that is soon read."""
    large = path.stat().st_size > _LARGE
    with path.open(encoding="utf-8") as file:
        text = file.read(2 * _LONGEST if large else -1)
    if path.suffix == ".json" and not large:
        text = json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    more = path.stat().st_size - _LONGEST if large else len(text) - _LONGEST
    rest = f"\n... {more} characters more" if more > 0 else ""
    return f"<pre>{escaped(text[:_LONGEST] + rest)}</pre>"


def _items(folder: Path) -> str:
    """The names of what is in the folder."""
    items = sorted(item for item in folder.iterdir() if not item.name.startswith("."))
    lines = [f"{item.name}{'/' if item.is_dir() else _size(item)}" for item in items[:_MOST]]
    if len(items) > _MOST:
        lines.append(f"... {len(items) - _MOST} more")
    listing = "\n".join(lines) or "an empty folder"
    return f"<pre>{escaped(listing)}</pre>"


def _size(file: Path) -> str:
    return f"  {file.stat().st_size / 1e3:,.1f} kB"


def _pictures(paths: list[Path]) -> str:
    """One over the whole width, or two side by side."""
    found = []
    for path in paths:
        data = base64.b64encode(path.read_bytes()).decode()
        source = f"data:image/{_PICTURES[path.suffix]};base64,{data}"
        style = f"width:{48 if len(paths) > 1 else 98}%;margin:1%"
        found.append(f'<img style="{style}" src="{source}">')
    return f"<br>{''.join(found)}" if found else ""
