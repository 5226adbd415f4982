"""``make faults``: kills and faults, at random moments by a seed, over the long jobs of the papers.

Each trial's line is written as soon as it ends; the last thing is a table. Exit code 1: results
differed from those of uninterrupted runs, or an error did not say what to do.
"""

from __future__ import annotations

import argparse
import json
import logging
import shutil
import sys
import tempfile
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Sequence
from dataclasses import asdict
from functools import partial
from itertools import count
from pathlib import Path
from random import Random
from typing import Any

TESTS = Path(__file__).resolve().parents[1]
sys.path[:0] = [str(TESTS)]  # for those who run this file

import jobs  # noqa: E402 - a file of its own folder, as the next ones
from children import Child  # noqa: E402
from faults import (  # noqa: E402
    DIFFERENCE,
    FAULTS,
    NAMED,
    SAME,
    Line,
    Trial,
    can_mount,
    full_disk,
    killed,
)
from outcomes import differences  # noqa: E402

Fault = Callable[[Trial], Iterator[Line]]


class Bench:
    """Homes below ``folder``, and an uninterrupted run of each job."""

    def __init__(self, folder: Path, seed: int) -> None:
        self.folder, self.seed = folder, seed
        self._seconds: dict[str, float] = {}
        self._numbers = count()
        jobs.warm()

    def seconds(self, job: str) -> float:
        """Of the processor that an uninterrupted run takes; it is made twice, and must agree."""
        if job not in self._seconds:
            stock, whole = self._place(job, "stock"), self._place(job, "whole")
            made = [self._done(partial(jobs.prepare, job, stock), stock)]
            for home in (whole, again := self._place(job, "again")):
                jobs.copied(stock, home)
                made.append(self._done(partial(jobs.play, job, home), home))
            found = differences(whole, again)
            assert not found, f"two runs of {job} differ: {found}"
            shutil.rmtree(again)
            self._seconds[job] = made[1]
        return self._seconds[job]

    def tried(self, fault: Fault, job: str) -> Iterator[Line]:
        """The lines of one trial."""
        seconds, number = self.seconds(job), next(self._numbers)
        home = self._place(job, f"trial-{number:04d}")
        random = Random(f"{self.seed} {number} {job} {fault.__name__}")
        stock, whole = self._place(job, "stock"), self._place(job, "whole")
        trial = Trial(job, number, stock, whole, seconds, home, random)
        sound = True
        for line in fault(trial):
            sound &= line.outcome != DIFFERENCE
            yield line
        if sound:  # else it is left to be looked at
            for path in self.folder.glob(f"{home.name}*"):
                shutil.rmtree(path) if path.is_dir() else path.unlink()

    def _place(self, job: str, name: str) -> Path:
        return self.folder / f"{job}-{name}"

    def _done(self, work: Callable[[], object], home: Path) -> float:
        end = Child(work, home.with_suffix(".json")).wait()
        assert end.code == 0, end
        return end.seconds


def schedule(names: Sequence[str], on: Callable[[], bool]) -> Iterator[tuple[Fault, str]]:
    """Rounds over jobs while ``on`` says so: each is killed, and then has two faults in turn."""
    faults = [fault for fault in FAULTS if fault is not full_disk or can_mount()]
    for turn in count():
        for index, job in enumerate(names):
            if not on():
                return
            yield killed, job
            for one in (0, 1):
                yield faults[(2 * turn + index + one) % len(faults)], job


def table(lines: Iterable[Line]) -> str:
    """Kills and faults by kind, and what came of them, as Markdown."""
    known = list(lines)
    rows = []
    for kind in sorted({line.kind for line in known}):
        mine = [line for line in known if line.kind == kind]
        by, killed_too = Counter(line.outcome for line in mine), sum(line.kills for line in mine)
        cells = [kind, len(mine), killed_too, by[SAME], by[NAMED], by[DIFFERENCE]]
        rows.append(f"| {' | '.join(map(str, cells))} |")
    by = Counter(line.outcome for line in known)
    cells = ["all", len(known), sum(line.kills for line in known), by[SAME], by[NAMED]]
    rows.append(f"| {' | '.join(map(str, [*cells, by[DIFFERENCE]]))} |")
    head = "| kind | trials | kills | same result | named error, then the same | differences |"
    return "\n".join([head, "| --- | ---: | ---: | ---: | ---: | ---: |", *rows, ""])


def main() -> int:
    """Runs the schedule."""
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--kills", type=int, default=100, help="how many, at least")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--log", type=Path, default=Path("data/08_reporting/faults.jsonl"))
    parser.add_argument("--jobs", nargs="+", default=[*jobs.JOBS], choices=[*jobs.JOBS])
    asked = parser.parse_args()
    logging.disable(logging.INFO)
    lines: list[Line] = []
    asked.log.parent.mkdir(parents=True, exist_ok=True)
    folder = Path(tempfile.mkdtemp(prefix="faults-"))
    bench = Bench(folder, asked.seed)
    with asked.log.open("w", encoding="utf-8") as log:
        few = lambda: sum(line.kills for line in lines) < asked.kills  # noqa: E731
        for fault, job in schedule(asked.jobs, few):
            for line in bench.tried(fault, job):
                lines.append(line)
                log.write(json.dumps(asdict(line)) + "\n")
                log.flush()
                sys.stdout.write(_sentence(line))
                sys.stdout.flush()
    asked.log.with_suffix(".md").write_text(table(lines), encoding="utf-8")
    sys.stdout.write(f"\n{table(lines)}\n{asked.log}\n")
    if any(line.outcome == DIFFERENCE for line in lines):
        sys.stdout.write(f"the homes of differences are kept in {folder}\n")
        return 1
    shutil.rmtree(folder)
    return 0


def _sentence(line: Line) -> str:
    parts: list[Any] = [f"{line.trial:4d} {line.job:12s} {line.kind}", line.what, line.outcome]
    parts += [f"{line.kills} kills" if line.kills else "", *line.errors, *line.differences[:5]]
    return ": ".join(str(part) for part in parts if part) + "\n"


if __name__ == "__main__":
    sys.exit(main())
