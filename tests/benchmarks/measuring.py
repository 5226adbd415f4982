"""What the benchmarks share: variants in processes of their own, their time, their peak memory."""

from __future__ import annotations

import json
import os
import platform
import resource
import subprocess
import sys
import time
from collections.abc import Iterable, Sequence
from datetime import UTC, datetime
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
    keep(rows.values())


def keep(rows: Iterable[dict[str, Any]]) -> None:
    """Appends rows to the results, with the hour and torch's version."""
    now = {"at": datetime.now(UTC).isoformat(timespec="seconds"), "torch": torch.__version__}
    RESULTS.parent.mkdir(parents=True, exist_ok=True)
    with RESULTS.open("a", encoding="utf-8") as stream:
        stream.writelines(json.dumps(row | now) + "\n" for row in rows)


def device_name(device: str) -> str:
    """The GPU's name, or the processor's."""
    if device == "cuda":
        return torch.cuda.get_device_name()
    found = Path("/proc/cpuinfo")
    lines = found.read_text().splitlines() if found.exists() else []
    names = [line.partition(":")[2].strip() for line in lines if line.startswith("model name")]
    return names[0] if names else platform.processor() or platform.machine()


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


def matmul_rate(device: str, dtype: torch.dtype) -> float:
    """TFLOP/s of a large product of matrices: what this device does at most, near enough."""
    side = 8192 if device == "cuda" else 1024
    left, right = (torch.randn(side, side, device=device, dtype=dtype) for _ in range(2))
    seconds = []
    for _ in range(5):
        started = now(device)
        torch.mm(left, right)
        seconds.append(now(device) - started)
    return 2 * side**3 / min(seconds) / 1e12


def now(device: str) -> float:
    """Seconds: of the clock, or of a processor that others use too."""
    synchronise(device)
    return time.perf_counter() if device == "cuda" else time.process_time()


def synchronise(device: str) -> None:
    """Waits until the GPU has done what it was given."""
    if device == "cuda":
        torch.cuda.synchronize()
