"""Every bad input of the corpus ends in the named error, or is skipped and listed."""

from __future__ import annotations

from pathlib import Path

import pytest
from corpus import Case, cases, judge, outcome
from sound import READERS, copy_of

ALL = list(cases())


@pytest.mark.parametrize("case", ALL, ids=str)
def test_bad_input_is_named(case: Case, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    judge(case, outcome(case, tmp_path))
    assert not (tmp_path / "it ran").exists()


@pytest.mark.parametrize("name", [name for name, reader in READERS.items() if reader.sound])
def test_sound_input_is_read(name: str, tmp_path: Path) -> None:
    """Else a case would say nothing."""
    assert READERS[name].read(copy_of(name, tmp_path / "data")) == []
