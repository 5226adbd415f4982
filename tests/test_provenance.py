"""Code versions are in every key, and what is kept says which commit made it."""

from __future__ import annotations

import json
import logging
import subprocess
from pathlib import Path
from types import ModuleType

import pytest
from tiny_world import SMALL

from diffground import __version__, provenance
from diffground.io.files import read_json
from diffground.provenance import (
    RECIPE,
    Made,
    checkout,
    claim,
    code_change,
    code_of,
    commit,
    join_commits,
    say_why,
)
from diffground.store.manifest import make_folder, read_manifest
from diffground.world import voc
from diffground.world.config import WorldConfig


def again(caplog: pytest.LogCaptureFixture) -> list[str]:
    """The lines so far that say why something is made again, without places; forgets them."""
    lines = [m for m in caplog.messages if "is made again, as the code" in m]
    caplog.clear()
    return [line.partition("another one: ")[2] for line in lines]


def repository(folder: Path) -> str:
    git = ["git", "-C", str(folder), "-c", "user.name=a", "-c", "user.email=a@b"]
    subprocess.run(["git", "init", "-q", str(folder)], check=True)
    (folder / "file").write_text("1")
    subprocess.run([*git, "add", "file"], check=True)
    subprocess.run([*git, "commit", "-qm", "first"], check=True)
    head = subprocess.run([*git, "rev-parse", "HEAD"], check=True, capture_output=True, text=True)
    return head.stdout.strip()


def test_a_checkout_says_its_commit_and_whether_it_was_changed(tmp_path):
    assert checkout(tmp_path) is None
    head = repository(tmp_path)
    assert checkout(tmp_path) == (head, False)
    (tmp_path / "file").write_text("2")
    assert checkout(tmp_path) == (head, True)


@pytest.mark.parametrize("tracked", [True, False])
def test_the_code_s_commit_is_marked_and_nobody_else_s_is_taken(tmp_path, monkeypatch, tracked):
    """An environment in somebody's checkout is no part of it: the package's version counts."""
    repository(tmp_path)
    monkeypatch.setattr(provenance, "__file__", str(tmp_path / ("file" if tracked else "other")))
    try:
        commit.cache_clear()
        if not tracked:
            assert commit() == f"diffground {__version__}"
            return
        assert commit() == checkout(tmp_path).commit
        (tmp_path / "file").write_text("2")
        commit.cache_clear()
        assert commit() == f"{checkout(tmp_path).commit}+"
    finally:
        commit.cache_clear()


def test_what_several_made_names_each_once():
    assert join_commits(["b+", "", "a, b+", "c"]) == "b+, a, c"
    parts = [Made(commit="b", date="2026-02-01"), Made(), Made(commit="a", date="2026-01-01")]
    assert Made.joined(parts) == Made(commit="b, a", date="2026-02-01")
    assert Made.joined([]) == Made() == Made.of({"steps": 3})
    assert Made.of({"commit": "a", "date": "2026-01-01", "steps": 3}) == parts[2]


def test_code_versions_are_told_from_settings_at_any_depth():
    module = ModuleType("diffground.papers.eipa")
    module.CODE_VERSION = 3
    assert code_of(module) == {"eipa": 3}
    before = {"code": {"crf": 1}, "layers": (1, 2), "maps": {"code": {"eipa": 3}, "seed": 0}}
    now = {"code": {"crf": 1}, "layers": [1, 2], "maps": {"code": {"eipa": 4, "cbp": 1}, "seed": 0}}
    assert code_change(before, now) == "cbp none → 1, eipa 3 → 4"
    assert code_change(now, now) == "" == code_change({}, now)
    assert code_change(before, now | {"layers": [1]}) == ""
    assert code_change(before, now | {"maps": now["maps"] | {"seed": 1}}) == ""


def test_a_folder_of_other_code_is_named_once(tmp_path, caplog):
    recipe = {"code": {"eipa": 1}, "seed": 0}
    claim(tmp_path / "first", recipe)
    claim(tmp_path / "seed", recipe | {"seed": 1})
    assert again(caplog) == []
    newer = recipe | {"code": {"eipa": 2}}
    claim(tmp_path / "second", newer)
    assert again(caplog) == ["eipa 1 → 2"]
    claim(tmp_path / "second", newer)
    assert again(caplog) == [] and read_json(tmp_path / "second" / RECIPE) == newer
    claim(tmp_path / "third", recipe | {"code": {"eipa": 3}})
    assert again(caplog) == ["eipa 2 → 3"]  # the newest of both
    claim(tmp_path / "third", recipe | {"code": {"eipa": 4}})
    assert again(caplog) == ["eipa 3 → 4"]  # filled in place
    (tmp_path / "third" / RECIPE).write_text("{")
    say_why(tmp_path, newer, [tmp_path / "third" / RECIPE])
    assert again(caplog) == []


def test_a_dataset_of_other_code_is_written_again(tmp_path, monkeypatch, caplog, made_by):
    first, settings = made_by("a"), WorldConfig.model_validate(SMALL)
    assert voc.make_voc2012(tmp_path / "voc", settings).made.commit == first
    second = made_by("b")
    assert voc.make_voc2012(tmp_path / "voc", settings).made.commit == first  # found
    assert again(caplog) == []
    monkeypatch.setattr(voc, "CODE_VERSION", voc.CODE_VERSION + 1)
    assert voc.make_voc2012(tmp_path / "voc", settings).made.commit == second
    assert again(caplog) == ["voc2012 1 → 2"]


def test_a_manifest_from_before_commits_were_noted_is_read(tmp_path, caplog):
    caplog.set_level(logging.WARNING)
    recipe = {"code": {"toy": 1}, "size": 1}
    make_folder(tmp_path / "toy", recipe, lambda part: (part / "a").write_text("1"))
    path = tmp_path / "toy" / "manifest.json"
    content = read_json(path)
    del content["made"]
    path.write_text(json.dumps(content))
    assert read_manifest(tmp_path / "toy").made == Made()
    make_folder(tmp_path / "toy", recipe, lambda part: pytest.fail("it is there"))
