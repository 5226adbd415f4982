"""What the benchmarks share: variants in processes of their own, their time, their peak memory."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

import torch

ROOT = Path(__file__).parents[2]
RESULTS = ROOT / "data/08_reporting/benchmarks.jsonl"


def in_own_processes(
    script: str, variants: Iterable[str], arguments: Sequence[object]
) -> dict[str, dict[str, Any]]:
    """Runs ``script <variant> <arguments>`` for each variant; the last line it prints is a row.

    Each in its own process, because the peak of a process cannot be reset.
    """
    paths = [str(ROOT / "tests"), os.environ.get("PYTHONPATH", "")]
    environment = os.environ | {"PYTHONPATH": os.pathsep.join(filter(None, paths))}
    rows = {}
    for variant in variants:
        command = [sys.executable, script, variant, *map(str, arguments)]
        done = subprocess.run(
            command, capture_output=True, text=True, check=False, cwd=ROOT, env=environment
        )
        assert done.returncode == 0, done.stderr
        rows[variant] = json.loads(done.stdout.splitlines()[-1])
    return rows


def compared(rows: dict[str, dict[str, Any]], base: str, names: Iterable[str]) -> None:
    """Adds ``<name>_ratio`` to every row, against the row ``base``, and keeps the rows."""
    for name in names:
        for row in rows.values():
            row[f"{name}_ratio"] = round(row[name] / rows[base][name], 3)
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row) + "\n" for row in rows.values())


def device_name(device: str) -> str:
    """The GPU's name, or the processor's architecture."""
    return torch.cuda.get_device_name() if device == "cuda" else platform.machine()


def peak_memory(device: str) -> float:
    """Peak memory so far in GiB: of the GPU's tensors, or resident in this process."""
    if device == "cuda":
        return torch.cuda.max_memory_allocated() / 2**30
    status = Path("/proc/self/status")
    if status.exists():  # ru_maxrss below may be the parent's, which a child inherits on Linux
        (line,) = [x for x in status.read_text().splitlines() if x.startswith("VmHWM:")]
        return int(line.split()[1]) / 2**20
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss
    return peak / (2**30 if platform.system() == "Darwin" else 2**20)


def synchronise(device: str) -> None:
    """Waits until the GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
