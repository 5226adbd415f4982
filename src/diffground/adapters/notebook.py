"""For notebooks: runs pipelines with changed parameters, reads and shows what they made."""

from __future__ import annotations

import logging
import sys
import warnings
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from numpy.typing import NDArray

from diffground.adapters.config_loader import DEFAULT_ENV
from diffground.errors import InputError, RunFailed
from diffground.failures import message
from diffground.reporting.overlays import Comparison


def open_project(folder: str | Path = ".") -> Path:
    """The project that ``folder`` is in, made known to Kedro; raises InputError if there is none.

    From then on a page shows what its cells show, the last state of their loops, and warnings.
    Call it before libraries are imported, which warn when they are.
    """
    here = Path(folder).resolve()
    for root in (here, *here.parents):
        if (root / "conf/base").is_dir() and (root / "pyproject.toml").exists():
            bootstrap_project(root)
            _plain()
            return root
    raise InputError(here, "project", "no diffground project here or above: set `project`")


def _plain() -> None:
    """Warnings as lines of text, and no pretty printing, which leaves an empty line per figure."""
    lines = "%(levelname)s %(message)s"
    logging.basicConfig(level="WARNING", format=lines, stream=sys.stdout, force=True)
    for name in ("kedro", "diffground"):
        logger = logging.getLogger(name)
        logger.handlers.clear()
        logger.propagate = True
        logger.setLevel("WARNING")
    warnings.filterwarnings("ignore", message="IProgress not found")  # bars are lines here
    if "IPython" not in sys.modules:
        return
    from IPython.core.formatters import PlainTextFormatter
    from IPython.core.getipython import get_ipython

    shell = get_ipython()
    if shell is not None and shell.display_formatter is not None:
        plain = PlainTextFormatter(parent=shell.display_formatter)
        shell.display_formatter.formatters["text/plain"] = plain


def run_pipeline(
    root: Path,
    pipeline: str,
    changes: dict[str, Any],
    read: Sequence[str],
    env: str = DEFAULT_ENV,
    *,
    nothing_else: bool = False,
) -> list[Any]:
    """Runs a pipeline as ``kedro run`` does and loads the catalog entries named in ``read``.

    Args:
        changes: nested parameters, as :func:`nested` makes them.
        env: ``mini`` for the mini world, ``paper`` for the papers' data and models.
        nothing_else: runs only what makes ``read``, say one dataset of the pipeline ``world``.
    """
    with _session(root, changes, env) as session:
        session.run(pipeline_names=[pipeline], to_outputs=read if nothing_else else None)
        catalog = session.load_context().catalog
        return [catalog.load(name) for name in read]


def load(
    root: Path, changes: dict[str, Any], read: Sequence[str], env: str = DEFAULT_ENV
) -> list[Any]:
    """Loads catalog entries, also parameters (``params:text2mask``), and runs nothing."""
    with _session(root, changes, env) as session:
        catalog = session.load_context().catalog
        return [catalog.load(name) for name in read]


@contextmanager
def _session(root: Path, changes: dict[str, Any], env: str) -> Iterator[KedroSession]:
    """A session of Kedro whose failures say what to do and not where in the code."""
    try:
        with KedroSession.create(root, env=env, runtime_params=changes) as session:
            assert isinstance(session, KedroSession)
            yield session
    except InputError:
        raise
    except Exception as error:
        text = message(error)
        if text is None:
            raise
        raise RunFailed(text) from None


def compare(
    image: NDArray[np.uint8], labels: Mapping[str, int], panels: Mapping[str, NDArray[np.uint8]]
) -> Comparison:
    """Label masks of an image as a row of ``side_by_side``, with its classes as the caption.

    Args:
        image: RGB (H, W, 3).
        labels: class -> its label in the masks.
        panels: title -> label mask (H, W).
    """
    caption = ", ".join(labels)
    ends = np.cumsum([len(name) + len(", ") for name in labels]) - len(", ")
    spans = [(int(end) - len(name), int(end)) for name, end in zip(labels, ends, strict=True)]
    masks = {
        title: np.stack([mask == label for label in labels.values()])
        for title, mask in panels.items()
    }
    return Comparison(image, caption, spans, masks)


def nested(text: str) -> dict[str, Any]:
    """``a.b=1,c=2`` as nested dictionaries, values read as YAML: what ``--params`` takes."""
    result: dict[str, Any] = {}
    for pair in filter(None, text.split(",")):
        key, equals, value = pair.partition("=")
        if not equals:
            raise InputError("params", pair, "it is not of the form name=value")
        *path, last = key.strip().split(".")
        place = result
        for part in path:
            place = place.setdefault(part, {})
        place[last] = yaml.safe_load(value)
    return result
