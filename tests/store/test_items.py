"""The store of items: killed and resumed runs, shards, mending, the pool, and broken items."""

from __future__ import annotations

import errno
import gc
import json
import os
import signal
import subprocess
import sys
import threading
import time
import weakref
from pathlib import Path

import psutil
import pytest
import toy_items
from pydantic import ValidationError
from toy_items import BROKEN, IDS, make, refused, run

from diffground.errors import InputError, WriteError
from diffground.io.files import write_whole
from diffground.store import pool
from diffground.store.config import ShardConfig, WorkConfig
from diffground.store.manifest import is_valid, read_manifest
from diffground.store.reports import read_notes

REPORT = "shard-000-of-001.jsonl"


def contents(folder: Path) -> dict[str, bytes]:
    """Every file but the locks, hidden ones included."""
    paths = [path for path in folder.rglob("*") if path.is_file() and path.suffix != ".lock"]
    return {path.relative_to(folder).as_posix(): path.read_bytes() for path in sorted(paths)}


def files(folder: Path) -> dict[str, bytes]:
    return {name: content for name, content in contents(folder).items() if "/" in name}


def shard(index: int, count: int) -> WorkConfig:
    return WorkConfig(shard=ShardConfig(index=index, count=count))


class Asked:
    """Makes items, and remembers which."""

    def __init__(self) -> None:
        self.ids: list[str] = []

    def __call__(self, item: str) -> int:
        self.ids.append(item)
        return make(item)


@pytest.fixture
def asked() -> Asked:
    return Asked()


@pytest.fixture(scope="module")
def whole(tmp_path_factory):
    """The folder of a run that nothing interrupted, in one process, and its summary."""
    folder = tmp_path_factory.mktemp("whole") / "toys"
    return folder, run(folder)


def test_what_a_run_makes_and_says(whole):
    folder, summary = whole
    assert json.loads(json.dumps(summary)) == summary
    assert summary.pop("seconds") > 0
    problem = {"item": BROKEN, "file": f"{BROKEN}.jpg", "field": "pixels"}
    problem["reason"] = "the image is cut short or corrupt"
    skipped = {"total": 60, "skipped": 1, "by_field": {"pixels": 1}, "problems": [problem]}
    counts = {"items": 60, "made": 59, "kept": 0}
    assert summary == {"folder": "toys", "complete": True, **counts, "skipped": skipped}
    good = {item for item in IDS if item != BROKEN}
    assert {*files(folder)} == {f"{n}/{item}.txt" for n in ("low", "high") for item in good}
    assert (folder / "low" / "item_003.txt").read_text() == "10"
    assert is_valid(folder) and json.loads((folder / "recipe.json").read_text()) == {"base": 7}
    notes = read_notes(folder)
    assert {*notes} == good and notes["item_003"].about == {"number": 3}


@pytest.mark.parametrize("workers", [0, 2])
def test_killed_twice_ends_with_the_same_bytes(whole, tmp_path, workers):
    folder = tmp_path / "toys"
    command = [sys.executable, toy_items.__file__, str(folder)]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    for enough in (12, 32):
        process = subprocess.Popen(
            [*command, str(enough + 8), str(workers)], env=environment, stderr=subprocess.DEVNULL
        )
        deadline = time.monotonic() + 300
        while len(list(folder.glob("high/*.txt"))) < enough and time.monotonic() < deadline:
            assert process.poll() is None
            time.sleep(0.005)
        children = psutil.Process(process.pid).children(recursive=True)
        os.kill(process.pid, signal.SIGKILL)
        process.wait()
        assert bool(children) == bool(workers)
        assert not psutil.wait_procs(children, timeout=60)[1], "workers were left over"
        done = len(list(folder.glob("high/*.txt")))
        assert enough <= done < 59 and not is_valid(folder)
    before = {path: path.stat().st_mtime_ns for path in folder.glob("high/*.txt")}
    (folder / "high" / ".item_000-dead.part").write_bytes(b"half")  # as a kill may leave
    with (folder / REPORT).open("a") as report:
        report.write('{"item": "item_05')
    summary = run(folder, work=WorkConfig(workers=workers))
    lost = done - summary["kept"]
    assert summary["complete"] and summary["made"] == 59 - summary["kept"]
    assert 0 <= lost <= (4 if workers else 1), "what was in its hands"
    assert contents(folder) == contents(whole[0])
    changed = [path for path, then in before.items() if path.stat().st_mtime_ns != then]
    assert len(changed) == lost


@pytest.mark.parametrize("order", [(0, 1, 2), (2, 0, 1)])
def test_shards_make_the_same_files(whole, tmp_path, order):
    for index in order:
        assert not is_valid(tmp_path)
        summary = run(tmp_path, work=shard(index, 3))
        assert summary["items"] == 20 and summary["complete"] == (index == order[-1])
    assert files(tmp_path) == files(whole[0])
    names = [f"shard-{index:03d}-of-003.jsonl" for index in range(3)]
    assert sorted(path.name for path in tmp_path.glob("shard*")) == names
    again = run(tmp_path)  # in one part: finds all of it, and tidies
    assert (again["made"], again["kept"], again["complete"]) == (0, 59, True)
    assert [path.name for path in tmp_path.glob("shard*")] == [REPORT]


def test_a_shard_that_starts_over_takes_back_that_the_folder_is_whole(tmp_path):
    def killed(item: str) -> int:
        raise KeyboardInterrupt

    for index in (0, 1):
        run(tmp_path, IDS[:4], work=shard(index, 2))
    (tmp_path / "low" / f"{IDS[1]}.txt").unlink()
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, IDS[:4], killed, work=shard(1, 2))
    assert read_manifest(tmp_path) is None
    assert not run(tmp_path, IDS[:4], work=shard(0, 2))["complete"]
    assert run(tmp_path, IDS[:4], work=shard(1, 2))["complete"] and is_valid(tmp_path)
    assert not run(tmp_path, IDS[:4], work=shard(0, 2), of="other")["complete"]


def test_a_second_run_waits_and_finds_all_made(tmp_path, asked):
    started = threading.Event()

    def slow(item: str) -> int:
        started.set()
        time.sleep(0.05)
        return make(item)

    first = threading.Thread(target=run, args=(tmp_path, IDS[:6], slow))
    first.start()
    assert started.wait(60)
    summary = run(tmp_path, IDS[:6], asked)
    first.join()
    assert asked.ids == [] and (summary["made"], summary["kept"]) == (0, 6)


def test_only_what_is_missing_or_damaged_is_made(tmp_path, asked):
    run(tmp_path, IDS[:6])
    before = contents(tmp_path)
    assert run(tmp_path, IDS[:6], asked)["seconds"] == 0 and asked.ids == []
    assert contents(tmp_path) == before
    (tmp_path / "low" / f"{IDS[1]}.txt").unlink()
    (tmp_path / "high" / f"{IDS[2]}.txt").write_bytes(b"")
    flipped = tmp_path / "high" / f"{IDS[4]}.txt"
    content = bytearray(flipped.read_bytes())
    content[-3] ^= 1
    flipped.write_bytes(content)
    summary = run(tmp_path, IDS[:6], asked)
    assert asked.ids == [IDS[1], IDS[2], IDS[4]] and summary["kept"] == 3
    assert contents(tmp_path) == before


def test_other_lists_of_items_leave_what_is_there(tmp_path, asked):
    run(tmp_path, IDS[:6])
    assert run(tmp_path, IDS[:8], asked)["complete"] and asked.ids == IDS[6:8]
    assert run(tmp_path, IDS[2:4], asked)["kept"] == 2 and {*read_notes(tmp_path)} == {*IDS[2:4]}
    assert run(tmp_path, IDS[:8], asked)["kept"] == 8 and asked.ids == IDS[6:8]


def test_what_was_made_from_something_else_is_made_again(tmp_path):
    sources, folder = tmp_path / "sources", tmp_path / "toys"
    sources.mkdir()
    for item in IDS[:3]:
        (sources / item).write_bytes(b"source")

    def made(asked_to=make) -> int:
        return run(folder, IDS[:3], asked_to, sources=sources)["made"]

    assert (made(), made()) == (3, 0)
    (sources / IDS[1]).write_bytes(b"spring")
    assert (made(), made()) == (1, 0)
    os.utime(sources / IDS[2], ns=(0, 0))
    assert made() == 0, "a copy has other dates"
    (sources / IDS[0]).unlink()
    assert made() == 0, "it may be gone once the item is there"
    (sources / IDS[2]).write_bytes(b"longer than before")
    tomorrow = time.time_ns() + 86400 * 10**9
    os.utime(sources / IDS[2], ns=(tomorrow, tomorrow))
    assert (made(), made()) == (1, 0), "a clock that is wrong costs one making at most"

    def replaced(item: str) -> int:
        (sources / item).write_bytes(b"in the middle")
        return make(item)

    (sources / IDS[0]).write_bytes(b"source that is new")
    assert (made(replaced), made(), made()) == (1, 1, 0), "also while it was read"


def test_other_settings_are_made_again(tmp_path, caplog):
    def made(**change) -> int:
        return run(tmp_path, IDS[:2], **change)["made"]

    assert (made(), made(of=["cat"]), made(of=["cat"]), made()) == (2, 2, 0, 2)
    assert (made(recipe={"base": 8}), made()) == (2, 2) and "made again" not in caplog.text
    code = {"code": {"toys": 1}}
    assert made(recipe=code) == 2
    run(tmp_path, IDS[:1], recipe={"code": {"toys": 2}})
    assert "made again, as the code is another one: toys 1 → 2" in caplog.text
    assert run(tmp_path, IDS[:2], recipe=code)["made"] == 1, "only one was made by the other"


@pytest.mark.parametrize("content", ["", "{", "{}", "[]", "\ufffd\nnull\n7\n"])
def test_damaged_descriptions_are_written_again(tmp_path, asked, content):
    run(tmp_path, IDS[:2])
    before = contents(tmp_path)
    (tmp_path / "recipe.json").write_text(content)
    (tmp_path / "manifest.json").write_text(content)
    assert run(tmp_path, IDS[:2], asked)["complete"] and contents(tmp_path) == before
    assert not asked.ids
    (tmp_path / REPORT).write_text(content)
    assert run(tmp_path, IDS[:2], asked)["complete"] and contents(tmp_path) == before
    assert asked.ids == IDS[:2], "nobody knows what these are"


@pytest.mark.parametrize(("was", "becomes"), [(b"{", b""), (b'"number": 0', b'"number": 1')])
def test_a_damaged_line_costs_its_item(tmp_path, asked, was, becomes):
    """Also one that can still be read: it is not what was written."""
    run(tmp_path, IDS[:3])
    before = contents(tmp_path)
    damaged = before[REPORT].replace(was, becomes, 1)
    assert damaged != before[REPORT]
    (tmp_path / REPORT).write_bytes(damaged)
    assert run(tmp_path, IDS[:3], asked)["complete"] and contents(tmp_path) == before
    assert asked.ids == IDS[:1]


def test_broken_items_are_tried_again(tmp_path, asked):
    ids = [BROKEN, IDS[0]]
    first = run(tmp_path, ids)
    assert first["complete"] and (first["made"], first["kept"]) == (1, 0)
    again = run(tmp_path, ids, asked)
    assert asked.ids == [BROKEN] and again["skipped"] == first["skipped"]
    mended = run(tmp_path, ids, lambda item: 17)
    assert mended["complete"] and mended["made"] == 1 and not mended["skipped"]["problems"]
    assert (tmp_path / "low" / f"{BROKEN}.txt").read_text() == "24"


def test_what_the_system_denies_keeps_the_store_from_being_complete(tmp_path):
    def denied(item: str) -> int:
        if item == IDS[1]:
            raise InputError.denied(item, OSError(errno.ESTALE, os.strerror(errno.ESTALE)))
        return make(item)

    for work in (shard(1, 2), shard(0, 2)):
        summary = run(tmp_path, IDS[:3], denied, work)
        assert not summary["complete"] and not is_valid(tmp_path)
    assert summary["skipped"]["skipped"] == 0, "it is not this shard's"
    summary = run(tmp_path, IDS[:3], work=shard(1, 2))
    assert summary["complete"] and summary["made"] == 1


@pytest.mark.parametrize("workers", [0, 1])
def test_a_full_disk_while_an_item_is_made_ends_the_run(tmp_path, workers):
    """As of training a token, which writes checkpoints: it is not the item that is bad."""

    def full(item: str) -> int:
        if item == IDS[1]:
            write_whole(tmp_path / "last.pt", fails)
        return make(item)

    def fails(part: Path) -> None:
        raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

    with pytest.raises(WriteError, match=r"last\.pt: file: cannot be written"):
        run(tmp_path / "toys", IDS[:3], full, WorkConfig(workers=workers))
    assert not is_valid(tmp_path / "toys")
    summary = run(tmp_path / "toys", IDS[:3])
    assert summary["complete"] and summary["skipped"]["skipped"] == 0


@pytest.mark.parametrize("workers", [0, 1])
def test_errors_of_finishing_end_the_run_with_their_fields(tmp_path, workers):
    with pytest.raises(InputError, match="it cannot be, says item_00") as caught:
        run(tmp_path, IDS[:3], work=WorkConfig(workers=workers), finish=refused)
    assert caught.value.field == "setting" and not is_valid(tmp_path)
    assert run(tmp_path, IDS[:3])["made"] == 3


def test_a_model_is_loaded_once_and_only_if_it_is_needed(tmp_path):
    loaded = []

    def filled(ids: list[str]) -> float:
        def finish(item: str, work: int) -> None:
            toy_items.finish(tmp_path, item, work)

        def ready() -> None:
            time.sleep(0.2)
            loaded.append(ids)

        return toy_items.fill(
            tmp_path, {}, toy_items.items(ids), make, finish, what="toys", ready=ready
        )["seconds"]

    seconds = [filled(IDS[:2]), filled(IDS[:2]), filled(IDS[:3])]
    assert loaded == [IDS[:2], IDS[:3]] and seconds[1] == 0 and max(seconds) < 0.2


class Load:
    """Work that takes memory."""

    def __init__(self, number: int) -> None:
        self.number = number


def finish_slowly(item: str, work: Load) -> int:
    time.sleep(0.05)
    return work.number


def test_what_waits_in_memory_is_bounded():
    alive: weakref.WeakSet[Load] = weakref.WeakSet()
    counts, unfinished, done = [], [], {}

    def counted(item: str) -> Load:
        gc.collect()
        counts.append(len(alive))
        unfinished.append(len(counts) - 1 - len(done))
        work = Load(len(counts))
        alive.add(work)
        return work

    ended = pool.outcomes(IDS[:12], counted, finish_slowly, workers=1)
    for item, number in ended:
        done[item] = number
    assert done == {item: number for number, item in enumerate(IDS[:12], 1)}
    assert max(unfinished) == 1  # while one more is being made
    assert max(counts) <= 2 and not alive  # one may be on its way out


def test_the_commits_of_all_runs_are_kept(tmp_path, made_by):
    """Also that of a run which was killed."""

    def killed(item: str) -> int:
        if item == IDS[1]:
            raise KeyboardInterrupt
        return make(item)

    first = made_by("a")
    with pytest.raises(KeyboardInterrupt):
        run(tmp_path, IDS[:2], killed)
    second = made_by("b")
    assert run(tmp_path, IDS[:2])["complete"]
    assert [note.commit for note in read_notes(tmp_path).values()] == [first, second]
    assert read_manifest(tmp_path).made.commit == f"{first}, {second}"


def test_names_and_settings_that_cannot_be(tmp_path):
    run(tmp_path, ["deep/er/a_1", "a_1"])
    assert (tmp_path / "low" / "deep" / "er" / "a_1.txt").exists()
    for ids, message in (
        ([], "no item"),
        (["a_1", "a_1"], "occurs twice"),
        (["../a_1"], "cannot be the name"),
        (["/a_1"], "cannot be the name"),
        ([".a_1"], "cannot be the name"),
    ):
        with pytest.raises(InputError, match=message):
            run(tmp_path / "other", ids)
    assert not (tmp_path / "other").exists()

    with pytest.raises(ValidationError, match="not in 0"):
        ShardConfig(index=2, count=2)
