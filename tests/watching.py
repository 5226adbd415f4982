"""Processes that may reach no other machine, and of which each try is noted."""

from __future__ import annotations

import os
from pathlib import Path

# Loaded by every Python below this folder: notes each try to reach another machine, and refuses it.
WATCH = """
import os, socket

def _watched(name, where):
    original = getattr(where, name)

    def asked(*args, **kwargs):
        host = str(next((a for a in args if isinstance(a, (str, tuple))), args[0]))
        local = any(h in host for h in ("127.0.0.1", "localhost", "::1")) or not host
        unix = getattr(args[0], "family", None) == socket.AF_UNIX
        if not local and not unix:
            with open(os.environ["WATCH_FILE"], "a") as file:
                file.write(f"{name}: {host}\\n")
            raise OSError(101, "Network is unreachable")
        return original(*args, **kwargs)

    setattr(where, name, asked)

for name in ("getaddrinfo", "gethostbyname", "gethostbyname_ex"):
    _watched(name, socket)
for name in ("connect", "connect_ex", "sendto"):
    _watched(name, socket.socket)
"""
# In CI and tests MLflow is silent by itself; a user has none of these.
CI = ("PYTEST_CURRENT_TEST", "CI", "GITHUB_ACTIONS", "GITLAB_CI", "JENKINS_URL", "TRAVIS")
CI += ("BUILDKITE", "CIRCLECI", "TF_BUILD", "MLFLOW_DISABLE_TELEMETRY", "HF_HUB_OFFLINE")


def environment(folder: Path, root: Path, **more: str) -> dict[str, str]:
    """That of a user who said DO_NOT_TRACK=1, with the watch."""
    (folder / "watch").mkdir()
    (folder / "watch/sitecustomize.py").write_text(WATCH)
    paths = [str(folder / "watch"), str(root / "src")]
    kept = {name: value for name, value in os.environ.items() if name not in CI}
    return kept | {
        "PYTHONPATH": os.pathsep.join(paths),
        "WATCH_FILE": str(folder / "reached.txt"),
        "DO_NOT_TRACK": "1",
        "DIFFGROUND_RUN_LOG": "1",
        "COLUMNS": "120",
        **more,
    }


def reached(folder: Path) -> list[str]:
    file = folder / "reached.txt"
    return file.read_text().splitlines() if file.exists() else []
