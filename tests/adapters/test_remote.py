"""Catalog entries at a URL: runs fetch what they read, and send what they make."""

from __future__ import annotations

import json
from collections.abc import Callable
from pathlib import Path

import fsspec
import pytest
from click.testing import CliRunner
from fsspec.implementations.memory import MemoryFileSystem
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from diffground.adapters.remote import RemoteConfig, is_url, localised, root_of, working_copy
from diffground.console import main
from diffground.errors import InputError
from diffground.store.mirror import Mirror

PIPELINE = """
    import time
    from functools import partial
    from pathlib import Path
    from kedro.pipeline import Node, Pipeline
    from diffground.store.items import Item, fill

    MADE, SECONDS, BREAKS = [], [0.0], []

    def write(folder, item, work):
        (folder / item).write_text(work)

    def make(folder: Path):
        items = [Item(name, (name,)) for name in "abc"]
        def one(item):
            MADE.append(item)
            time.sleep(SECONDS[0])
            if item in BREAKS:
                raise RuntimeError("the machine is gone")
            return item
        fill(folder / "key", {"by": 1}, items, one, partial(write, folder / "key"), what="toys")
        return folder / "key", {"items": 3}

    def toy(folder: Path) -> dict:
        return {"files": sorted(path.name for path in folder.glob("?"))}

    def create_pipeline():
        return Pipeline([
            Node(make, "toys_folder", ["toys_report", "toys"][::-1], name="make"),
            Node(toy, "toys", "toy_out", name="toy"),
        ])
"""
FOLDERS = "diffground.adapters.datasets"
FILES = {
    "conf/base/parameters.yml": "{}",
    "conf/base/globals.yml": "data: memory://bucket/data\n",
    "conf/base/catalog.yml": f"""
        toys_folder: {{type: {FOLDERS}.TargetFolderDataset, filepath: "${{globals:data}}/toys"}}
        toys: {{type: {FOLDERS}.MadeFolderDataset, filepath: "${{globals:data}}/toys"}}
        toys_report: {{type: {FOLDERS}.files.JSONDataset, filepath: "${{globals:data}}/toys.json"}}
        toy_out: {{type: {FOLDERS}.files.JSONDataset, filepath: "${{globals:data}}/toy.json"}}
        more_out: {{type: {FOLDERS}.files.JSONDataset, filepath: data/more.json}}
    """,
}
ITEMS = ["a", "b", "c"]


@pytest.fixture
def bucket() -> MemoryFileSystem:
    """An empty one."""
    MemoryFileSystem.store.clear()
    MemoryFileSystem.pseudo_dirs[:] = [""]
    fs = fsspec.filesystem("memory")
    fs.mkdir("/bucket")
    return fs


@pytest.fixture
def machine(toy_project: Callable[..., Path], bucket: MemoryFileSystem):
    """``machine("b")`` runs the project with the working copies of a machine; its toy module."""
    project = toy_project(PIPELINE, FILES)

    def run(name: str, *, every: float | None = None, pipeline: str = "sum"):
        cache = project / name
        text = json.dumps({"cache": str(cache), "push_every": every})
        (project / "conf/local/remote.yml").write_text(text)
        bootstrap_project(project)
        with KedroSession.create(project) as session:
            session.run(pipeline_names=[pipeline])
        return cache / "memory/bucket/data"

    return run


def names(bucket: MemoryFileSystem) -> list[str]:
    return [path.removeprefix("/bucket/data/") for path in bucket.find("/bucket")]


def toy_module():
    from toy_project.pipelines import toy

    return toy


def test_what_one_machine_made_another_finds(machine, bucket: MemoryFileSystem) -> None:
    here = machine("a")
    assert toy_module().MADE == ITEMS
    assert json.loads(bucket.cat("/bucket/data/toy.json")) == {"files": ITEMS}
    store = [*ITEMS, "manifest.json", "recipe.json", "shard-000-of-001.jsonl"]
    assert names(bucket) == [
        "toy.json", "toys.json", *sorted(f"toys/key/{name}" for name in store), "toys/last.json",
    ]  # fmt: skip
    there = machine("b")
    assert toy_module().MADE == ITEMS, "nothing was made again"
    assert (there / "toys/key/b").read_bytes() == (here / "toys/key/b").read_bytes() == b"b"
    assert (there.parents[3] / "data/more.json").read_text() == "1", "a local entry stays local"


def test_reports_are_sent_last(machine, monkeypatch: pytest.MonkeyPatch) -> None:
    sent: list[str] = []
    push = Mirror.push
    monkeypatch.setattr(Mirror, "push", lambda self: (sent.append(self.url), push(self))[1])
    machine("a")
    data = "memory://bucket/data"
    assert sent == [f"{data}/toys", f"{data}/toys.json", f"{data}/toy.json"]


def test_what_a_broken_run_had_made_is_gone_on_with(machine, bucket: MemoryFileSystem) -> None:
    machine("a", pipeline="toy")
    bucket.rm("/bucket/data", recursive=True)
    toy = toy_module()
    toy.MADE.clear()
    toy.BREAKS.append("b")
    with pytest.raises(RuntimeError, match="the machine is gone"):
        machine("c", pipeline="toy")
    assert "toys/key/a" in names(bucket) and "toys/key/manifest.json" not in names(bucket)
    toy.BREAKS.clear()
    machine("d")
    assert toy.MADE == ["a", "b", "b", "c"]


def test_a_step_is_sent_while_it_runs(machine, bucket, monkeypatch: pytest.MonkeyPatch) -> None:
    """What another machine would find, when the last item is begun."""
    machine("a", pipeline="toy")
    bucket.rm("/bucket/data", recursive=True)
    toy = toy_module()
    toy.SECONDS[0] = 0.4
    seen: list[list[str]] = []

    class Seeing:
        def append(self, item: str) -> None:
            seen.append(names(bucket))

    monkeypatch.setattr(toy, "MADE", Seeing())
    machine("b", pipeline="toy", every=0.05)
    assert "toys/key/a" in seen[-1] and "toys/key/c" not in seen[-1]


def test_of_several_processes_the_first_one_sends(
    machine, bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("RANK", "1")
    machine("a", every=0.05)
    assert names(bucket) == []


def test_a_url_that_does_not_answer_is_named_first(machine, bucket: MemoryFileSystem) -> None:
    bucket.rm("/bucket", recursive=True)
    with pytest.raises(InputError, match="memory://bucket/data/.*: access: it cannot be reached"):
        machine("a")


def test_without_urls_nothing_is_asked(
    toy_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    def asked(url: str, **options: object) -> None:
        raise AssertionError(url)

    monkeypatch.setattr("diffground.store.urls.url_to_fs", asked)
    project = toy_project(PIPELINE, FILES | {"conf/base/globals.yml": "data: data\n"})
    bootstrap_project(project)
    with KedroSession.create(project) as session:
        session.run(pipeline_names=["sum"])
    assert (project / "data/toy.json").exists() and not (project / "data/remote").exists()


def test_working_copies_lie_in_the_cache(tmp_path: Path) -> None:
    assert working_copy("s3://b/x/y/", tmp_path, "e") == tmp_path / "s3/b/x/y"
    assert working_copy("file:///mnt/x", tmp_path, "e") == tmp_path / "file/mnt/x"
    wrong = ("s3://", "s3://b/../../x", "simplecache::s3://b/x", "s3://b/.x", "file:///../x")
    for url in wrong:
        with pytest.raises(InputError, match="catalog: e: "):
            working_copy(url, tmp_path, "e")
    assert is_url("gs://b") and not any(map(is_url, ("data/x", "/x", "C:\\x", None)))
    assert root_of("s3://b/x/y") == "s3://b" and root_of("file:///mnt/x/y") == "file:///mnt"


def test_an_entry_says_what_it_is_the_copy_of() -> None:
    entries = {"a": {"filepath": "s3://b/x", "metadata": {"units": "none"}}, "b": {"filepath": "x"}}
    found = localised(entries, lambda: Path("data/remote"))
    assert found["a"]["filepath"] == "data/remote/s3/b/x" and found["b"] == entries["b"]
    assert found["a"]["metadata"] == {"units": "none", "remote": "s3://b/x"}
    assert RemoteConfig(cache=Path("x"), push_every=None).push_every is None


def test_sync(machine, bucket: MemoryFileSystem, monkeypatch: pytest.MonkeyPatch) -> None:
    here = machine("a")
    bucket.pipe("/bucket/data/toy.json", b'{"files": []}')
    (here / "toys/key/c").unlink()
    monkeypatch.chdir(here.parents[3])
    done = CliRunner().invoke(main, ["sync", "toys", "toy_out"])
    assert done.exit_code == 0, done.output
    assert (here / "toys/key/c").read_text() == "c"
    assert json.loads((here / "toy.json").read_text()) == {"files": []}
    assert "from memory://bucket/data/toys: 1 files" in done.output
    wrong = CliRunner().invoke(main, ["sync", "more_out"])
    assert wrong.exit_code == 1 and "catalog: more_out: no such entry is at a URL" in wrong.output
