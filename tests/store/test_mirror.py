"""Working copies of what lies at a URL: in memory, in a folder, and in a bucket of S3."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path

import fsspec
import pytest
from fsspec.implementations.memory import MemoryFileSystem
from s3_server import empty_bucket, serving
from toy_items import IDS as ALL
from toy_items import make, run

from diffground.errors import InputError
from diffground.store.config import ShardConfig, WorkConfig
from diffground.store.manifest import MANIFEST, is_valid
from diffground.store.mirror import Carried, Mirror
from diffground.store.urls import Place

IDS = ALL[:6]
NOTHING = Carried(0, 0, 0)


@pytest.fixture(scope="module")
def s3_server() -> Iterator[dict[str, str]]:
    with serving() as environment:
        yield environment


@pytest.fixture(params=["memory", "file", "s3"])
def url(request: pytest.FixtureRequest, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> str:
    """A place that is empty."""
    if request.param == "memory":
        MemoryFileSystem.store.clear()
        MemoryFileSystem.pseudo_dirs[:] = [""]
        fsspec.filesystem("memory").mkdir("/bucket")
        return "memory://bucket/toys"
    if request.param == "file":
        return f"file://{tmp_path}/bucket/toys"
    for name, value in request.getfixturevalue("s3_server").items():
        monkeypatch.setenv(name, value)
    empty_bucket()
    return "s3://bucket/toys"


@pytest.fixture
def copies(url: str, tmp_path: Path) -> Callable[[str], Mirror]:
    """``copies("a")``: the working copy of a machine."""
    return lambda machine: Mirror(url, tmp_path / machine / "toys")


def contents(folder: Path) -> dict[str, bytes]:
    """All files but hidden ones."""
    paths = (path for path in folder.rglob("*") if path.is_file())
    return {
        name: path.read_bytes()
        for path in paths
        if "/." not in f"/{(name := path.relative_to(folder).as_posix())}"
    }


def write(mirror: Mirror, name: str, text: str) -> Path:
    path = mirror.place / name
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    return path


def test_only_what_differs_is_copied(copies: Callable[[str], Mirror]) -> None:
    here, there = copies("a"), copies("b")
    here.remote.reach()
    assert here.pull() == NOTHING and here.push() == NOTHING
    write(here, "x/1.txt", "one")
    write(here, "2.txt", "two!")
    write(here, ".hidden", "no")
    assert here.push() == Carried(2, 7, 0) and here.push() == NOTHING
    assert there.pull() == Carried(2, 7, 0) and there.pull() == NOTHING
    assert contents(there.place) == {"x/1.txt": b"one", "2.txt": b"two!"}
    write(there, "2.txt", "2")
    (there.place / "x/1.txt").unlink()
    assert there.push() == Carried(1, 1, 1)
    assert here.pull() == Carried(1, 1, 1) and here.push() == NOTHING
    assert contents(here.place) == {"2.txt": b"2"} and (here.place / ".hidden").exists()
    os.utime(here.place / "2.txt")  # a date alone is no change
    assert here.push() == NOTHING
    here.remote.reach()


def test_a_single_file(url: str, tmp_path: Path) -> None:
    here, there = (Mirror(f"{url}.json", tmp_path / name / "toys.json") for name in "ab")
    assert here.pull() == NOTHING
    here.place.parent.mkdir(exist_ok=True)
    here.place.write_text("{}")
    assert here.push() == Carried(1, 2, 0) and here.push() == NOTHING
    assert there.pull() == Carried(1, 2, 0) and there.place.read_text() == "{}"
    here.place.write_text("[1]")
    there.place.write_text("[22]")
    here.push()
    assert there.push().files == 1, "of a report that both write the last one stays"
    here.pull()
    assert here.place.read_text() == "[22]"


def test_what_is_lost_here_is_fetched_again(copies: Callable[[str], Mirror]) -> None:
    here = copies("a")
    write(here, "1.txt", "one")
    write(here, "2.txt", "two")
    here.push()
    shutil.rmtree(here.place)
    assert here.pull().files == 2
    (here.place / "1.txt").unlink()
    assert here.pull() == Carried(1, 3, 0), "before a run it was nobody's intent"


def test_a_bucket_that_was_emptied_is_filled_again(copies: Callable[[str], Mirror]) -> None:
    here = copies("a")
    write(here, "1.txt", "one")
    here.push()
    fsspec.filesystem(here.url.partition(":")[0]).rm(here.remote.path_of(""), recursive=True)
    assert here.pull() == NOTHING and contents(here.place) == {"1.txt": b"one"}
    assert here.push().files == 1


def test_what_both_changed_is_named(copies: Callable[[str], Mirror]) -> None:
    here, there = copies("a"), copies("b")
    write(here, "1.txt", "one")
    write(here, "2.txt", "two")
    here.push()
    there.pull()
    path = write(here, "1.txt", "mine")
    write(there, "1.txt", "theirs")
    write(there, "2.txt", "theirs")
    there.push()
    for way in (here.pull, here.push):
        with pytest.raises(InputError, match=r"1\.txt: changed: .*remove the one that is not"):
            way()
    assert contents(here.place) == {"1.txt": b"mine", "2.txt": b"two"}
    path.unlink()
    here.pull()
    assert contents(here.place) == {"1.txt": b"theirs", "2.txt": b"theirs"}
    write(here, "1.txt", "same")
    write(there, "1.txt", "same")
    assert here.push().files == 1 and there.push() == NOTHING and there.pull() == NOTHING


def test_notes_that_are_damaged_or_lost_cost_a_comparison(copies: Callable[[str], Mirror]) -> None:
    here = copies("a")
    for name in ("1.txt", "2.txt", "3.txt"):
        write(here, name, name)
    here.push()
    journal = here.place.with_name(".toys.mirror.jsonl")
    lines = journal.read_text().splitlines()
    journal.write_text("\n".join([lines[0], lines[1][:30], "[3]", '["x", ["a", [1], 2]]']))
    assert here.pull() == NOTHING and here.push() == NOTHING
    assert len(journal.read_text().splitlines()) == 3
    journal.unlink()
    assert here.push() == NOTHING


def test_what_parts_of_a_store_took_is_no_conflict(copies: Callable[[str], Mirror]) -> None:
    """Noted beside the store, whose name it has: of two machines' the last one stays."""
    here, there = copies("a"), copies("b")
    for mirror, seconds in ((here, "1.5"), (there, "2")):
        write(mirror, "val-key/shard-000-of-002.jsonl", "")
        write(mirror, "val-key.json", seconds)
    assert (here.push().files, there.push().files) == (2, 1)
    assert here.pull().files == 1 and (here.place / "val-key.json").read_text() == "2"


class Killed(BaseException):
    """What ends a process, for all that its code can do."""


@pytest.mark.parametrize(("after", "sent"), [(0, True), (2, True), (2, False), (9, True)])
def test_a_push_that_was_killed_goes_on(
    copies: Callable[[str], Mirror],
    monkeypatch: pytest.MonkeyPatch,
    after: int,
    sent: bool,
) -> None:
    """Killed before a file is sent, or behind it, before it is noted that it was."""
    here = copies("a")
    here.place.parent.mkdir(exist_ok=True)
    run(here.place, IDS[:2])
    here.push()
    run(here.place, IDS)
    whole, notes = contents(here.place), []

    def noted(name, known, note=here._note):  # twice a file
        notes.append(name)
        if len(notes) > 2 * after + sent:
            raise Killed
        note(name, known)

    monkeypatch.setattr("diffground.store.mirror.AT_ONCE", 1)
    monkeypatch.setattr(here, "_note", noted)
    with pytest.raises(Killed):
        here.push()
    seen = copies("b")
    seen.pull()
    assert not is_valid(seen.place), "a folder that is half of two states is not whole"
    again = copies("a")
    again.pull()
    assert contents(here.place) == whole
    again.push()
    last = copies("c")
    last.pull()
    assert contents(last.place) == whole and is_valid(last.place)
    assert again.push() == NOTHING


def test_no_report_of_files_that_are_not_there(
    url: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Whoever looks between two steps of a push finds what the report names."""
    here = Mirror(url, tmp_path / "a/toys")
    run(here.place, IDS)
    order: list[str] = []
    send = here.remote.send
    monkeypatch.setattr(
        here.remote, "send", lambda path, name: (order.append(name), send(path, name))[1]
    )
    here.push()
    reports = [name for name in order if name.endswith(".jsonl")]
    assert order[-1] == MANIFEST and order[-2:-1] == reports and len(order) > len(IDS)


def test_a_store_that_is_being_filled(copies: Callable[[str], Mirror]) -> None:
    """A push in the middle is a state that another machine goes on with, item by item."""
    here, there = copies("a"), copies("b")
    pushed: list[Carried] = []

    def making(item: str) -> int:
        if item == IDS[-1]:
            pushed.append(here.push())
            raise KeyboardInterrupt
        return make(item)

    with pytest.raises(KeyboardInterrupt):
        run(here.place, IDS, make=making)
    assert pushed[0].files > 1
    there.pull()
    assert not is_valid(there.place)
    done = run(there.place, IDS)
    assert done["complete"] and done["kept"] > 0 and done["kept"] + done["made"] == len(IDS)
    there.push()
    here.pull()
    assert is_valid(here.place) and run(here.place, IDS)["made"] == 0
    alone = here.place.with_name("alone")
    run(alone, IDS)
    items = {name: data for name, data in contents(alone).items() if name[-6:] != ".jsonl"}
    items.pop(MANIFEST)
    assert items.items() <= contents(here.place).items()


def test_machines_with_a_part_of_a_store_each(copies: Callable[[str], Mirror]) -> None:
    """They write reports of their own; who comes last finds all parts, and declares it whole."""
    machines = [copies("a"), copies("b")]
    for mirror in machines:
        mirror.pull()
    for index, mirror in enumerate(machines):
        part = ShardConfig(index=index, count=2)
        assert not run(mirror.place, IDS, work=WorkConfig(shard=part))["complete"]
    for mirror in machines:
        mirror.push()
    last = copies("c")
    last.pull()
    done = run(last.place, IDS, work=WorkConfig(shard=ShardConfig(index=0, count=2)))
    assert done["complete"] and done["made"] == 0
    last.push()
    machines[0].pull()
    assert is_valid(machines[0].place)
    # Another cut: the old reports go, there as here.
    assert run(last.place, IDS)["made"] == 0
    last.push()
    machines[1].pull()
    assert is_valid(machines[1].place) and contents(machines[1].place) == contents(last.place)


@pytest.mark.parametrize("name", ["../out.txt", "x/../../out.txt", "x//y.txt", "a\\..\\b", "a\nb"])
def test_names_of_a_listing_stay_in_the_folder(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    """A bucket takes any name."""
    MemoryFileSystem.store.clear()
    mirror = Mirror("memory://bucket/toys", tmp_path / "a/b/toys")
    path = f"/bucket/toys/{name}"
    listed = {path: {"name": path, "type": "file", "size": 3, "created": 1.0}}
    monkeypatch.setattr(MemoryFileSystem, "find", lambda *args, **options: listed, raising=False)
    with pytest.raises(InputError, match="memory://bucket/toys: name: "):
        mirror.pull()
    assert not mirror.place.exists() and not list(tmp_path.rglob("out.txt"))


def test_a_place_that_does_not_answer(tmp_path: Path) -> None:
    with pytest.raises(InputError, match=r"nothing://x/y: access: it cannot be reached \(Protoco"):
        Mirror("nothing://x/y", tmp_path / "y")
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    with pytest.raises(InputError, match=r"memory://none/y: access: it cannot be reached"):
        Place("memory://none/y").reach()
