"""``python -m diffground`` runs pipelines: the same as ``kedro run``, with the same options."""

from __future__ import annotations

import sys
from pathlib import Path

from kedro.framework.cli.utils import find_run_command
from kedro.framework.project import configure_project


def main() -> None:
    """The command line of ``kedro run``."""
    package = Path(__file__).parent.name
    configure_project(package)
    find_run_command(package)(standalone_mode=not hasattr(sys, "ps1"))


if __name__ == "__main__":
    main()
