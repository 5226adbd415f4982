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
_MOST = 20  # items of a folder
_EXAMPLES = 4  # pictures of a folder
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
        return HTMLPreview(_words(self.metadata or {}) + self._content(show))

    def _place(self) -> Path | None:
        """The file or folder; None in memory."""
        place = getattr(self, "folder", None) or getattr(self, "_filepath", None)
        return Path(str(place)) if place else None

    def _content(self, show: str) -> str:
        """What is there now, as HTML."""
        path = self._place()
        if path is None:
            return _line("In memory while a run lasts.")
        if not path.exists():
            return _line("Not there yet.")
        return _folder(path, show) if path.is_dir() else _file(path)


def escaped(text: str) -> str:
    """``text`` so that Kedro-Viz shows it as it is."""
    safe = html.escape(text, quote=False).replace("\n", "<br>")
    return "".join(char + _BREAK if char in "_*" else char for char in safe)


def _words(metadata: dict[str, Any]) -> str:
    """What the catalog says about the entry."""
    fields = metadata.get("fields", {}).items()
    rows = [(f"<code>{escaped(name)}</code>", meaning) for name, meaning in fields]
    rows += [(name, metadata[name]) for name in ("shape", "units") if name in metadata]
    rows += [(f"size, {scale}", text) for scale, text in metadata.get("size", {}).items()]
    cells = (f"<tr><td>{name}</td><td>{escaped(str(text))}</td></tr>" for name, text in rows)
    description = escaped(str(metadata.get("description", "")).strip())
    return f"<b>{description}</b><table>{''.join(cells)}</table>"


def _line(text: str) -> str:
    return f"<br><i>{escaped(text)}</i>"


def _file(path: Path) -> str:
    """A picture, or the beginning of a text; JSON on lines of its own."""
    if path.suffix in _PICTURES:
        return _picture(path, "100%")
    text = path.read_text("utf-8")
    if path.suffix == ".json":
        text = json.dumps(json.loads(text), indent=1, ensure_ascii=False)
    rest = f"\n... {len(text) - _LONGEST} characters more" if len(text) > _LONGEST else ""
    return f"<pre>{escaped(text[:_LONGEST] + rest)}</pre>"


def _folder(path: Path, show: str) -> str:
    """The pictures that are to be shown, and the names of what is in the folder."""
    width = f"{100 // _EXAMPLES * 2 - 2}%"
    examples = [_picture(p, width) for p in islice(path.glob(show), _EXAMPLES)] if show else []
    if len(examples) == 1:
        examples = [_picture(next(path.glob(show)), "100%")]
    items = sorted(item for item in path.iterdir() if not item.name.startswith("."))
    lines = [f"{item.name}{'/' if item.is_dir() else _size(item)}" for item in items[:_MOST]]
    if len(items) > _MOST:
        lines.append(f"... {len(items) - _MOST} more")
    listing = "\n".join(lines) or "an empty folder"
    return "".join(examples) + f"<pre>{escaped(listing)}</pre>"


def _size(file: Path) -> str:
    return f"  {file.stat().st_size / 1e3:,.1f} kB"


def _picture(path: Path, width: str) -> str:
    data = base64.b64encode(path.read_bytes()).decode()
    kind = _PICTURES[path.suffix]
    return f'<img style="width:{width};margin:1%" src="data:image/{kind};base64,{data}">'
