"""How long it took to make what is in a store, over all runs; noted beside its folder."""

from __future__ import annotations

from pathlib import Path

from filelock import FileLock

from diffground.io.files import read_json, write_json
from diffground.store.items import Summary


def spent(folder: Path, summary: Summary) -> dict[str, float]:
    """Adds a run to ``<folder>.json``: ``{"seconds", "items"}`` of all that was made so far."""
    notes = folder.with_name(f"{folder.name}.json")
    with FileLock(folder / ".seconds.lock"):
        total: dict[str, float] = {"seconds": 0.0, "items": 0} | (read_json(notes) or {})
        if summary["made"]:
            total["seconds"] = round(total["seconds"] + summary["seconds"], 2)
            total["items"] += summary["made"]
            write_json(notes, total)
    return total
