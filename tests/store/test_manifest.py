"""Made folders: valid only when whole, made once, and safe against being killed."""

from __future__ import annotations

import os
import signal
import subprocess
import sys
import textwrap
from pathlib import Path

import pytest

from diffground.config import Config
from diffground.errors import InputError
from diffground.store.manifest import (
    MANIFEST,
    config_hash,
    fingerprint,
    is_valid,
    make_folder,
    read_manifest,
    remove_manifest,
    write_manifest,
)


class World(Config):
    scenes: int = 3
    sizes: tuple[int, int] = (8, 8)


def fill(folder: Path) -> None:
    (folder / "images").mkdir()
    for i in range(3):
        (folder / "images" / f"{i}.png").write_bytes(bytes(10))
    (folder / "index.json").write_text("[0, 1, 2]")


def test_is_made_once_per_configuration(tmp_path: Path) -> None:
    calls: list[Path] = []

    def make(partial: Path) -> None:
        calls.append(partial)
        fill(partial)

    folder = tmp_path / "raw" / "world"
    first = make_folder(folder, World(), make)
    assert make_folder(folder, World(), make) == first and len(calls) == 1
    assert first.files == {".": 1, "images": 3} and first.size_bytes == 30 + 9
    assert first.config == {"scenes": 3, "sizes": [8, 8]}
    assert is_valid(folder, World()) and is_valid(folder) and not is_valid(folder, World(scenes=4))

    second = make_folder(folder, World(scenes=4), make)
    assert len(calls) == 2 and second.config_hash != first.config_hash
    assert not list(folder.parent.glob("*.partial"))


def test_equal_configurations_have_equal_hashes() -> None:
    assert config_hash({"a": 1, "b": (2, 3)}) == config_hash({"b": [2, 3], "a": 1})
    assert config_hash(World()) == config_hash({"scenes": 3, "sizes": [8, 8]})
    assert config_hash(World()) != config_hash(World(scenes=4))


@pytest.mark.parametrize("damage", ["remove", "truncate", "add", "manifest", "half a manifest"])
def test_notices_damage(tmp_path: Path, damage: str) -> None:
    folder = tmp_path / "world"
    make_folder(folder, World(), fill)
    if damage == "remove":
        (folder / "images" / "1.png").unlink()
    elif damage == "truncate":
        (folder / "images" / "1.png").write_bytes(b"")
    elif damage == "add":
        (folder / "images" / "stale.png").write_bytes(b"")
    elif damage == "manifest":
        remove_manifest(folder)
    else:
        (folder / MANIFEST).write_text((folder / MANIFEST).read_text()[:40])
    assert not is_valid(folder, World())


def test_leaves_alone_what_it_did_not_make(tmp_path: Path) -> None:
    folder = tmp_path / "coco"
    (folder / "val2017").mkdir(parents=True)
    (folder / "val2017" / "1.jpg").write_bytes(b"mine")
    with pytest.raises(InputError, match=r"1 files \(val2017/1\.jpg\) were not made here"):
        make_folder(folder, World(), fill)
    assert (folder / "val2017" / "1.jpg").read_bytes() == b"mine"
    assert not (tmp_path / ".coco.partial").exists()


@pytest.mark.parametrize("manifest", [None, "", "{", "{}"])
def test_a_lost_manifest_heals_where_all_files_are_known(tmp_path: Path, manifest: str) -> None:
    folder = tmp_path / "world"
    first = make_folder(folder, World(), fill)
    if manifest is None:
        (folder / MANIFEST).unlink()
    else:
        (folder / MANIFEST).write_text(manifest)
    (folder / "images" / "1.png").unlink()
    assert make_folder(folder, World(), fill) == first and is_valid(folder, World())
    (folder / MANIFEST).write_text("")
    (folder / "mine.txt").write_text("mine")
    with pytest.raises(InputError, match="remove it if it was made by an earlier run"):
        make_folder(folder, World(), fill)
    assert (folder / "mine.txt").read_text() == "mine"


def test_files_of_others_are_moved_aside(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "world"
    make_folder(folder, World(), fill)
    for number, config in enumerate((World(), World(scenes=4)), start=1):
        (folder / "images" / "mine.txt").write_text("mine")
        make_folder(folder, config, fill)
        assert is_valid(folder, config)
        aside = tmp_path / f"world.kept-{number}"
        assert (aside / "images" / "mine.txt").read_text() == "mine"
        assert f"1 files in it that are not of it (images/mine.txt) are now in {aside}" in (
            caplog.text
        )
    make_folder(folder, World(), fill)  # nothing strange: replaced without a word
    assert len(list(tmp_path.glob("world.kept-*"))) == 2


def test_flipped_bits_are_mended(tmp_path: Path, caplog: pytest.LogCaptureFixture) -> None:
    folder = tmp_path / "world"
    first = make_folder(folder, World(), fill)
    (folder / "index.json").write_text("[0, 1, 3]")
    assert is_valid(folder, World())  # sizes alone do not tell
    assert make_folder(folder, World(), fill) == first
    assert (folder / "index.json").read_text() == "[0, 1, 2]"
    assert "damaged since it was made" in caplog.text


def test_an_error_while_making_leaves_the_old_folder(tmp_path: Path) -> None:
    folder = tmp_path / "world"
    make_folder(folder, World(), fill)

    def fail(partial: Path) -> None:
        (partial / "half.png").write_bytes(b"")
        raise RuntimeError("disk full")

    with pytest.raises(RuntimeError, match="disk full"):
        make_folder(folder, World(scenes=5), fail)
    assert is_valid(folder, World())
    make_folder(folder, World(scenes=5), fill)
    assert is_valid(folder, World(scenes=5)) and not (folder / "half.png").exists()


@pytest.mark.parametrize("moment", ["while making", "before the renames", "between the renames"])
def test_kill_at_any_moment(tmp_path: Path, moment: str) -> None:
    """A second run after ``kill -9`` ends with a valid folder, and remakes only what it must."""
    folder = tmp_path / "world"
    make_folder(folder, World(), fill)
    script = f"""
        import os, signal
        from pathlib import Path
        from diffground.store.manifest import make_folder
        die = lambda *args, **kwargs: os.kill(os.getpid(), signal.SIGKILL)
        moment = {moment!r}

        def make(partial):
            (partial / "new.png").write_bytes(bytes(7))
            if moment == "while making":
                die()

        if moment == "before the renames":
            Path.rename = die
        if moment == "between the renames":
            rename, calls = Path.rename, []
            Path.rename = lambda self, to: die() if calls else (calls.append(1), rename(self, to))
        make_folder({str(folder)!r}, {{"scenes": 9}}, make)
    """
    env = {**os.environ, "PYTHONPATH": os.pathsep.join(sys.path)}
    done = subprocess.run([sys.executable, "-c", textwrap.dedent(script)], check=False, env=env)
    assert done.returncode == -signal.SIGKILL
    assert not is_valid(folder, {"scenes": 9})

    made: list[Path] = []

    def make(partial: Path) -> None:
        made.append(partial)
        (partial / "new.png").write_bytes(bytes(7))

    make_folder(folder, {"scenes": 9}, make)
    assert is_valid(folder, {"scenes": 9})
    assert sorted(p.name for p in folder.iterdir()) == [MANIFEST, "new.png"]
    assert len(made) == (1 if moment == "while making" else 0)


def test_in_place_folders(tmp_path: Path) -> None:
    fill(tmp_path)
    assert read_manifest(tmp_path) is None
    manifest = write_manifest(tmp_path, {"steps": 10})
    assert read_manifest(tmp_path) == manifest and is_valid(tmp_path, {"steps": 10})


def test_fingerprint_is_of_contents(tmp_path: Path) -> None:
    for name in ("a", "b"):
        (tmp_path / name / "unet").mkdir(parents=True)
        (tmp_path / name / "unet" / "config.json").write_text("{}")
        (tmp_path / name / "unet" / "w.safetensors").write_bytes(bytes(100))
        (tmp_path / name / f"{name}.png").write_bytes(b"")  # not a part of the model
    assert fingerprint(tmp_path / "a") == fingerprint(tmp_path / "b")
    (tmp_path / "b" / "unet" / "w.safetensors").write_bytes(bytes(99) + b"1")
    assert fingerprint(tmp_path / "a") != fingerprint(tmp_path / "b")
