"""What the documentation claims of speed and size, beside what a run of benchmarks measured.

``claims.yml`` has the claims; the rows are those that the benchmarks append to
data/08_reporting/benchmarks.jsonl. ``conftest.py`` prints the table at the end of every run.
"""

from __future__ import annotations

import json
import os
from collections.abc import Sequence
from datetime import UTC, datetime
from pathlib import Path
from typing import Any, Literal

import torch
import yaml
from measuring import RESULTS, device_name

from diffground.config import Config
from diffground.io.files import write_json, write_whole
from diffground.provenance import commit

FILE = Path(__file__).with_name("claims.yml")
REPORT = RESULTS.with_suffix(".json")
TABLE = RESULTS.with_suffix(".md")

Verdict = Literal["pass", "miss", "measured", "not measured"]


class Place(Config):
    """A sentence of a file."""

    file: str  # below the repository
    words: str  # as they stand there, however the lines are broken


class Aside(Place):
    """A sentence of time or size that nobody measures."""

    why: str


class Row(Config):
    """A row that a benchmark appends, by two of its fields."""

    what: str
    variant: str


class Claim(Config):
    """A ratio or a cost: where it is claimed, and which field of which row is its measure."""

    id: str
    says: str
    source: Place
    benchmark: str  # file in tests/benchmarks
    row: Row
    field: str  # with dots in a part
    over: Row | None = None  # the measure is the quotient by the same field of this row
    unit: str = ""
    at_most: float | None = None
    at_least: float | None = None
    where: Literal["cpu", "cuda"] | None = None  # where the target holds; None: anywhere

    @property
    def target(self) -> str:
        """In a few signs; empty where none is stated."""
        bounds = {"≥": self.at_least, "≤": self.at_most}
        found = " ".join(f"{sign} {bound:g}" for sign, bound in bounds.items() if bound is not None)
        return found + (f" on {self.where}" if found and self.where else "")

    def measured(self, rows: Sequence[dict[str, Any]]) -> float | None:
        """Of the last such rows; None if one of them is not there."""
        value = _value(rows, self.row, self.field)
        if value is None or self.over is None:
            return value
        base = _value(rows, self.over, self.field)
        return value / base if base else None

    def verdict(self, value: float | None, on: str) -> Verdict:
        """Of a measured value on "cpu" or "cuda"."""
        if value is None:
            return "not measured"
        if not self.target or self.where not in (None, on):
            return "measured"
        low = self.at_least is None or value >= self.at_least
        return "pass" if low and (self.at_most is None or value <= self.at_most) else "miss"


class Claims(Config):
    """``claims.yml``: what is measured, and what the documentation says that is not a claim."""

    claims: tuple[Claim, ...]
    aside: tuple[Aside, ...]


def read_claims() -> Claims:
    """The declared ones."""
    return Claims.model_validate(yaml.safe_load(FILE.read_text("utf-8")))


def read_rows(since: str) -> list[dict[str, Any]]:
    """Rows that were appended at or after an hour in ISO format, in order."""
    lines = RESULTS.read_text("utf-8").splitlines() if RESULTS.exists() else []
    rows = [json.loads(line) for line in lines]
    return [row for row in rows if row.get("at", "") >= since]


def hardware() -> dict[str, Any]:
    """What the run was on."""
    gpu = torch.cuda.is_available()
    return {
        "date": datetime.now(UTC).isoformat(timespec="minutes"),
        "cpu": device_name("cpu"),
        "cores": os.cpu_count(),
        "gpu": device_name("cuda") if gpu else None,
        "threads": torch.get_num_threads(),
        "torch": torch.__version__,
        "commit": commit(),
    }


def judged(claims: Claims, rows: Sequence[dict[str, Any]], on: str) -> list[dict[str, Any]]:
    """JSON-ready, a row for every claim."""
    found = []
    for claim in claims.claims:
        value = claim.measured(rows)
        found.append(
            {
                "id": claim.id,
                "claim": claim.says,
                "source": claim.source.file,
                "target": claim.target,
                "measured": None if value is None else float(f"{value:.4g}"),
                "unit": claim.unit,
                "verdict": claim.verdict(value, on),
            }
        )
    return found


def report(since: str) -> tuple[str, bool]:
    """Writes what was measured since an hour as JSON and Markdown.

    Returns:
        The table, and whether no target was missed.
    """
    machine, rows = hardware(), read_rows(since)
    found = judged(read_claims(), rows, "cuda" if machine["gpu"] else "cpu")
    text = _table(machine, found)
    missing = [row["id"] for row in found if row["verdict"] == "not measured"]
    if missing:
        text += f"\nNot measured in this run: {', '.join(missing)}.\n"
    write_json(REPORT, {**machine, "claims": found, "rows": rows})
    write_whole(TABLE, lambda part: part.write_text(text, "utf-8"))
    return text, all(row["verdict"] != "miss" for row in found)


def _table(machine: dict[str, Any], found: Sequence[dict[str, Any]]) -> str:
    where = machine["gpu"] or "no GPU"
    lines = [
        f"{machine['date']} · {machine['cpu']}, {machine['cores']} cores · {where} · "
        f"{machine['threads']} thread(s) · torch {machine['torch']} · {machine['commit']}",
        "",
        "| claim | target | measured | verdict | claimed in |",
        "| --- | --- | --- | --- | --- |",
    ]
    for row in found:
        if row["measured"] is None:
            continue
        value = f"{row['measured']:g} {row['unit']}".strip()
        cells = (row["claim"], row["target"] or "-", value, row["verdict"], row["source"])
        lines.append(f"| {' | '.join(cells)} |")
    return "\n".join(lines) + "\n"


def _value(rows: Sequence[dict[str, Any]], wanted: Row, field: str) -> float | None:
    fits = [r for r in rows if (r["what"], r.get("variant", "")) == (wanted.what, wanted.variant)]
    value: Any = fits[-1] if fits else {}
    for name in field.split("."):
        value = value.get(name) if isinstance(value, dict) else None
    return None if value is None else float(value)
