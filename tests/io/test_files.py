"""Whole files, seals and locks."""

from __future__ import annotations

import errno
import subprocess
import sys
from pathlib import Path

import pytest
from safetensors import SafetensorError

from diffground.errors import InputError
from diffground.io.files import check_seal, is_sound, seal_of, write_json, write_whole
from diffground.io.locks import held


def test_a_failed_write_leaves_the_old_file_and_nothing_else(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "a.txt", lambda part: part.write_text("old"))

    def fails(part: Path) -> None:
        part.write_text("half")
        raise KeyError("no")

    with pytest.raises(KeyError):
        write_whole(path, fails)
    assert path.read_text() == "old"
    assert [each.name for each in tmp_path.iterdir()] == ["a.txt"]


@pytest.mark.parametrize(
    ("error", "advice"),
    [
        (OSError(errno.ENOSPC, "No space left on device"), "free some space"),
        (RuntimeError("[enforce fail at x.cc:672] . unexpected pos 84416 vs 84308"), "free some"),
        (RuntimeError("PytorchStreamWriter failed writing file data/3"), "free some space"),
        (SafetensorError("Error while serializing: No space left on device"), "free some space"),
        (RuntimeError("open file failed with strerror: Read-only file system"), "can be written"),
        (RuntimeError("open file failed with strerror: Permission denied"), "give yourself"),
        (SafetensorError("I/O error: File too large (os error 27)"), "raise the limit"),
    ],
)
def test_what_the_system_refuses_is_named_with_the_file_and_leaves_nothing(
    tmp_path: Path, error: Exception, advice: str
) -> None:
    def full(part: Path) -> None:
        part.write_bytes(b"half")
        raise error

    with pytest.raises(InputError, match=rf"last\.pt: file: cannot be written .*{advice}"):
        write_whole(tmp_path / "last.pt", full)
    assert not list(tmp_path.iterdir())


def test_a_disk_that_can_only_be_read_is_named_though_nothing_can_be_removed_either(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "unlink", refuses)
    with pytest.raises(InputError, match=r"a\.txt: file: cannot be written \(Read-only file sys"):
        write_whole(tmp_path / "a.txt", refuses)


def test_a_file_that_may_not_be_so_large_is_named(tmp_path: Path) -> None:
    """The system's own limit, in a process of its own."""
    code = (
        "import resource, sys; from pathlib import Path\n"
        "from diffground.io.files import write_whole\n"
        "resource.setrlimit(resource.RLIMIT_FSIZE, (100, 100))\n"
        "write_whole(sys.argv[1], lambda part: part.write_bytes(bytes(1000)))\n"
    )
    command = [sys.executable, "-c", code, str(tmp_path / "a.bin")]
    done = subprocess.run(command, capture_output=True, text=True, check=False)
    assert "a.bin: file: cannot be written (File too large); files may not be so" in done.stderr
    assert not list(tmp_path.iterdir())


def test_a_seal_tells_a_file_from_a_damaged_one(tmp_path: Path) -> None:
    path = write_whole(tmp_path / "w.bin", lambda part: part.write_bytes(b"12345"), sealed=True)
    check_seal(path, "make it again")
    path.write_bytes(b"12435")  # same size
    assert is_sound(path) is False
    with pytest.raises(InputError, match=r"w\.bin: sha256: .*damaged.*make it again"):
        check_seal(path, "make it again")
    seal_of(path).unlink()
    assert is_sound(path) is None
    check_seal(path, "no seal, no complaint")


def test_a_kill_between_seal_and_file_leaves_an_old_file_that_is_sound(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    path = write_whole(tmp_path / "w.bin", lambda part: part.write_bytes(b"old"), sealed=True)
    replace = Path.replace

    def killed(self: Path, target: Path) -> Path:
        if target == path:
            raise KeyboardInterrupt
        return replace(self, target)

    monkeypatch.setattr(Path, "replace", killed)
    with pytest.raises(KeyboardInterrupt):
        write_whole(path, lambda part: part.write_bytes(b"new"), sealed=True)
    monkeypatch.undo()
    assert path.read_bytes() == b"old"
    assert is_sound(path) is True


def test_a_lock_says_who_holds_it_and_is_free_when_its_holder_dies(tmp_path: Path) -> None:
    path = tmp_path / "training.lock"
    code = (
        "import sys, time\nfrom diffground.io.locks import held\n"
        f"with held({str(path)!r}, 'x'):\n    print('held', flush=True)\n    time.sleep(60)\n"
    )
    with subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True) as other:
        assert other.stdout is not None and other.stdout.readline() == "held\n"
        with pytest.raises(
            InputError, match=f"this training is in the hands of process {other.pid}"
        ):
            with held(path, "this training", wait=False):
                pass
        other.kill()
        other.wait()
    with held(path, "this training", wait=False):
        write_json(tmp_path / "done.json", {})
    assert (tmp_path / "done.json").is_file()
