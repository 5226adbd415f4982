"""Ends a run of benchmarks in the table of what is claimed and what was measured."""

from __future__ import annotations

from datetime import UTC, datetime

import pytest
from claims import TABLE, read_rows, report

_STARTED = datetime.now(UTC).isoformat(timespec="seconds")
_TABLE = pytest.StashKey[str]()


def pytest_sessionfinish(session: pytest.Session) -> None:
    """A missed target fails the run, as a failed test does."""
    if session.config.option.markexpr == "benchmark" and read_rows(_STARTED):
        session.config.stash[_TABLE], held = report(_STARTED)
        if not held and session.exitstatus == pytest.ExitCode.OK:
            session.exitstatus = pytest.ExitCode.TESTS_FAILED


def pytest_terminal_summary(
    terminalreporter: pytest.TerminalReporter, config: pytest.Config
) -> None:
    """The table, which also lies in a file."""
    if _TABLE in config.stash:
        terminalreporter.section(f"claims and measures, also in {TABLE}")
        terminalreporter.write_line(config.stash[_TABLE])
