"""What a user is told of a failure, instead of a traceback."""

from __future__ import annotations

import errno
import os
from pathlib import Path

import pytest
from kedro.io import DatasetError

from diffground.adapters.datasets.files import TextDataset
from diffground.failures import message


@pytest.mark.parametrize("number", [errno.ENOSPC, errno.EFBIG, errno.EROFS, errno.EACCES])
def test_what_the_system_refuses_is_told_with_the_place_and_the_remedy(number: int) -> None:
    """Wherever it happens: a folder that cannot be made is no complaint of ours."""
    told = message(OSError(number, os.strerror(number), "/data/a"))
    said = os.strerror(number)
    assert told is not None and told.startswith(f"/data/a: file: the system refuses ({said}); ")
    assert "another folder" in told or "can be written" in told


def test_a_disk_that_is_full_has_no_name() -> None:
    told = message(OSError(errno.ENOSPC, "No space left on device"))
    assert told == (
        "the disk: file: the system refuses (No space left on device); "
        "free some space, or name another folder, and start again"
    )


def test_a_file_of_the_catalog_that_is_refused_is_told_with_the_remedy(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    def refuses(self: Path, *args: object, **kwargs: object) -> None:
        raise OSError(errno.EROFS, "Read-only file system", str(self))

    monkeypatch.setattr(Path, "mkdir", refuses)
    with pytest.raises(DatasetError) as error:
        TextDataset(filepath=str(tmp_path / "below/a.md")).save("text")
    told = message(error.value)
    assert (
        told is not None and "a.md: file: cannot be written (Read-only file system); name" in told
    )


def test_errors_of_the_code_are_not_told() -> None:
    assert message(OSError(errno.EIO, "Input/output error")) is None
    assert message(KeyError("a")) is None
