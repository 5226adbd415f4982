"""The command line: Kedro's ``run``, whose failures say what to do and not where in the code.

Kedro finds this module by its name.
"""

from __future__ import annotations

import copy
import signal
import sys
from typing import Any

import click
import yaml
from kedro.framework.cli.project import run as kedro_run
from kedro.framework.project import pipelines as registered

from diffground.adapters.hooks.checks import nearest
from diffground.errors import InputError
from diffground.failures import told


@click.group(name="diffground")
def cli() -> None:
    """Commands of the project."""


def _run(**options: Any) -> Any:
    """Kedro's ``run``; what is the user's to mend ends it with a message and exit code 1.

    SIGTERM ends it as Ctrl-C does: locks, files and the run log are closed.
    """
    before = signal.signal(signal.SIGTERM, lambda number, _: sys.exit(128 + number))
    try:
        with told():
            for name in options["pipelines"] or [options["pipeline"]]:
                if name and name not in registered:
                    known = sorted(set(registered) - {"__default__"})
                    reason = f"there is no such pipeline; {nearest(name, known)}"
                    raise InputError("--pipelines", name, reason)
            assert kedro_run.callback is not None
            return kedro_run.callback(**options)
    finally:
        signal.signal(signal.SIGTERM, before)


def _read_params(context: click.Context, option: click.Parameter, value: str) -> Any:
    """What Kedro reads ``--params`` as; brackets that are not closed are the user's to mend."""
    (kedro_option,) = (known for known in kedro_run.params if known.name == option.name)
    assert kedro_option.callback is not None
    try:
        return kedro_option.callback(context, option, value)
    except yaml.YAMLError as error:
        raise click.BadParameter(" ".join(str(error).split())) from error


run = copy.copy(kedro_run)
run.callback = _run
run.params = [copy.copy(option) for option in kedro_run.params]
for option in run.params:
    if option.name == "params":
        option.callback = _read_params
cli.add_command(run, "run")
