"""A short sample of ``make faults``, and that the harness sees what it is to see."""

from __future__ import annotations

import json
import os
import subprocess
import sys
from itertools import islice
from pathlib import Path
from random import Random

import harness
import jobs
import pytest
from children import Child, Ending
from faults import DIFFERENCE, FAULTS, NAMED, SAME, Line, Trial, flip, is_told, read_only
from outcomes import differences

from diffground.errors import InputError
from diffground.io.files import write_json, write_lines
from diffground.store.items import Item, fill


def test_a_sample(tmp_path: Path) -> None:
    """As the command runs it, which forks: in a process without anybody else's threads."""
    log = tmp_path / "faults.jsonl"
    command = [sys.executable, harness.__file__, "--jobs", "text2mask"]
    done = subprocess.run(
        [*command, "--kills", "4", "--seed", "0", "--log", str(log)],
        env={**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)},
        capture_output=True, text=True, check=False,
    )  # fmt: skip
    assert done.returncode == 0, done.stdout + done.stderr
    lines = [json.loads(line) for line in log.read_text().splitlines()]
    assert {line["outcome"] for line in lines} <= {SAME, NAMED}
    assert sum(line["kills"] for line in lines) >= 4
    assert len({line["kind"] for line in lines}) >= 3
    assert "| kill |" in log.with_suffix(".md").read_text()


def test_every_job_meets_every_fault() -> None:
    names = [*jobs.JOBS]
    rounds = islice(harness.schedule(names, lambda: True), 3 * 3 * len(names))
    met = {(fault, job) for fault, job in rounds}
    possible = FAULTS if harness.can_mount() else FAULTS[1:]
    assert met >= {(fault, job) for fault in possible for job in names}


def test_a_kill_before_anything_was_made(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Of a job that is given nothing: there is no folder yet that could be closed."""
    monkeypatch.setattr(Trial, "until", lambda self, most: True)
    monkeypatch.setattr(Trial, "finish", lambda self: Ending(0))
    stock, whole = tmp_path / "stock", tmp_path / "whole"
    stock.mkdir()
    trial = Trial("foundation", 0, stock, whole, 1.0, tmp_path / "home", Random(0))
    (line,) = read_only(trial)
    assert (line.outcome, line.what, line.kills) == (SAME, "data", 1)


@pytest.fixture
def homes(tmp_path: Path) -> tuple[Path, Path]:
    """Two with the same in them, but for what may differ."""
    both = tmp_path / "one", tmp_path / "two"
    for home, seconds in zip(both, (1.5, 2.5), strict=True):
        report = {"seconds": seconds, "score": 50.0, "file": str(home / "data/a")}
        write_json(home / "data/report.json", report, sealed=True)
        (home / "data/image.png").write_bytes(b"pixels")
        (home / "data/.store.lock").write_bytes(b"" if seconds > 2 else b"1")
    return both


def test_differences_are_seen(homes: tuple[Path, Path]) -> None:
    one, two = homes
    assert differences(one, two) == []
    flip(two / "data/image.png", Random(0))
    write_json(two / "data/report.json", {"score": 51.0})
    (one / "data/lost.txt").write_text("a")
    assert differences(one, two) == [
        "data/lost.txt: only in the first",
        "data/image.png: other content",
        "data/report.json: other content",
        "data/report.json: other bytes than its seal says",
    ]


def test_a_seal_that_admits_the_file_before_as_well_is_no_difference(tmp_path: Path) -> None:
    """Of what was made anew, and made anew as it was, as when a photo is spoiled and put back."""

    def made_of(store: Path, number: int) -> None:
        def finish(item: str, made: int) -> None:
            write_json(store / "a.json", {"number": made}, sealed=True)

        one = Item("a", ("a.json", "a.json.sha256"), number)
        fill(store, {}, [one], lambda item: number, finish, what="numbers")

    one, two = tmp_path / "one", tmp_path / "two"
    made_of(one / "data/store", 1)
    for number in (1, 2):
        made_of(two / "data/store", number)
    assert "data/store/a.json: other content" in differences(one, two)
    made_of(two / "data/store", 1)
    seals = [(home / "data/store/a.json.sha256").read_text() for home in (one, two)]
    assert seals[0] != seals[1] and differences(one, two) == []


def trial(homes: tuple[Path, Path]) -> Trial:
    return Trial("png", 0, homes[0].parent / "stock", homes[0], 1.0, homes[1], Random(0))


def test_what_a_trial_comes_to(homes: tuple[Path, Path]) -> None:
    one = trial(homes)
    assert one.judged("x", Ending(0)).outcome == SAME
    found = one.judged("x", Ending(1, error="KeyError: 'a' (b.py:3)"))
    assert found.outcome == DIFFERENCE and found.errors == ("traceback: KeyError: 'a' (b.py:3)",)
    nowhere = Ending(1, named=True, error="it is wrong")
    assert one.judged("x", nowhere).outcome == DIFFERENCE, "no file to mend"
    flip(homes[1] / "data/image.png", Random(0))
    assert one.judged("x", Ending(0)).differences == ("data/image.png: other content",)


def test_who_reads_a_damaged_file_is_told(tmp_path: Path) -> None:
    def finish(name: str, made: str) -> dict[str, int]:
        (tmp_path / "store/low").mkdir(parents=True)
        write_lines(tmp_path / "store/low/a.txt", [made])
        return {}

    item = Item("a", ("low/a.txt",))
    fill(tmp_path / "store", {}, [item], lambda name: name, finish, what="items")
    write_json(tmp_path / "sealed.json", {"a": 1}, sealed=True)
    write_json(tmp_path / "plain.json", {"a": 1})
    names = ("store/low/a.txt", "sealed.json", "plain.json")
    assert not any(is_told(tmp_path / name) for name in names)
    for name in names:
        flip(tmp_path / name, Random(0))
    assert [is_told(tmp_path / name) for name in names] == [True, True, False]


def test_how_children_end(tmp_path: Path) -> None:
    def refused() -> None:
        raise InputError("a.png", "pixels", "cut short")

    def large() -> None:
        (tmp_path / "large").write_bytes(bytes(5000))

    note = tmp_path / "note.json"
    assert Child(lambda: None, note).wait() == Ending(0)
    named = Ending(1, True, "a.png: pixels: cut short", "a.png", "pixels")
    assert Child(refused, note).wait() == named
    assert "File too large" in Child(large, note, largest=1000).wait().error
    endless = Child(lambda: [None for _ in iter(int, 1)], note)
    assert endless.kill_after(0.05) and endless.wait() == Ending(-9)


def test_the_table_counts() -> None:
    lines = [Line("kill", "png", 0, SAME, 5), Line("kill", "iosd", 1, DIFFERENCE, 2)]
    assert "| kill | 2 | 7 | 1 | 0 | 1 |" in harness.table(lines)
    assert "| all | 2 | 7 | 1 | 0 | 1 |" in harness.table(lines)
