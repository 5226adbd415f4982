"""Which failures are the user's to mend: of these the message is enough, without a traceback."""

from __future__ import annotations

import re
from collections.abc import Iterator
from contextlib import contextmanager

from diffground.errors import HINT, InputError, advice_on, wants_traceback

# Modules of Kedro that, where they raise by themselves, complain of the command or of a file.
_COMPLAINERS = ("kedro.config", "kedro.framework.session", "kedro.pipeline", "kedro.validation")


def message(error: BaseException) -> str | None:
    """What to tell about a failure; None if it is none of these, or the traceback is asked for.

    Told are our own errors, a training that does not converge, files that the catalog cannot find,
    what the system refuses to write or to hand over, and what Kedro says about parameters,
    configuration files and names.
    """
    if wants_traceback():
        return None
    kind = f"{type(error).__module__}.{type(error).__qualname__}"
    if isinstance(error, InputError | FloatingPointError):
        return str(error)
    cause = error.__cause__
    if refused := _refused(error) or (_refused(cause) if kind.startswith("kedro.io.") else None):
        return refused
    if kind.startswith("kedro.io."):
        if isinstance(cause, InputError):
            return str(cause)
        # Raised by Kedro itself: an entry that names no class, or arguments that it does not take.
        told = cause is None or isinstance(cause, OSError) or _raised_in(cause)[:9] == "kedro.io."
        return str(error).strip() if told else None
    if kind.startswith("kedro.validation."):
        return _parameters(str(error))
    if _raised_in(error).startswith(_COMPLAINERS):
        return str(error)
    return None


@contextmanager
def told() -> Iterator[None]:
    """Within it, what is the user's to mend ends a command of click with a message and code 1."""
    import click

    try:
        yield
    except Exception as error:
        text = message(error)
        if text is None:
            raise
        raise click.ClickException(f"{text}\n\n{HINT}") from error


def _refused(error: BaseException | None) -> str | None:
    """Of a full disk, a right that is missing and the like: the place, the cause, the remedy."""
    advice = advice_on(error) if isinstance(error, OSError) else None
    if advice is None:
        return None
    assert isinstance(error, OSError)
    return f"{error.filename or 'the disk'}: file: the system refuses ({error.strerror}); {advice}"


def _parameters(text: str) -> str:
    """Kedro's words around pydantic's, as lines ``png.train.seed: what is wrong with it``."""
    lines: list[str] = []
    parameter = field = ""
    for line in text.splitlines():
        if header := re.match(r"- Parameter '([^']+)': .*validation errors? for ", line):
            parameter, field = header[1], header[1]
        elif parameter and line.startswith("    For further information"):
            field = parameter
        elif parameter and line.startswith("  "):
            told = re.sub(r" \[type=\w+, input_value=(.*), input_type=\w+\]$", r", not \1", line)
            lines.append(f"{field}: {told.strip()}")
        elif parameter and not line.startswith("- "):
            field = f"{parameter}.{line}"
        else:
            lines.append(line)
    return "\n".join(lines)


def _raised_in(error: BaseException) -> str:
    """The name of the module that raised it."""
    trace = error.__traceback__
    while trace is not None and trace.tb_next is not None:
        trace = trace.tb_next
    return "" if trace is None else str(trace.tb_frame.f_globals.get("__name__", ""))
