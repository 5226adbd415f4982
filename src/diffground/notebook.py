"""For notebooks: runs pipelines with changed parameters, reads and shows what they made."""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any

import numpy as np
import yaml
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from numpy.typing import NDArray

from diffground.errors import InputError
from diffground.reporting.overlays import Comparison


def open_project(folder: str | Path = ".") -> Path:
    """The project that ``folder`` is in, made known to Kedro; raises InputError if there is none.

    Kedro's own progress lines, which would fill the notebook, are turned off.
    """
    here = Path(folder).resolve()
    for root in (here, *here.parents):
        if (root / "conf/base").is_dir() and (root / "pyproject.toml").exists():
            bootstrap_project(root)
            logging.getLogger("kedro").setLevel("WARNING")
            return root
    raise InputError(here, "project", "no diffground project here or above: set `project`")


def run_pipeline(
    root: Path, pipeline: str, changes: dict[str, Any], read: Sequence[str], env: str = "local"
) -> list[Any]:
    """Runs a pipeline as ``kedro run`` does and loads the catalog entries named in ``read``.

    Args:
        changes: nested parameters, as :func:`nested` makes them.
        env: ``local`` for the mini world, ``paper`` for the papers' data and models.
    """
    with KedroSession.create(root, env=env, runtime_params=changes) as session:
        assert isinstance(session, KedroSession)
        session.run(pipeline_names=[pipeline])
        catalog = session.load_context().catalog
        return [catalog.load(name) for name in read]


def load(root: Path, changes: dict[str, Any], read: Sequence[str], env: str = "local") -> list[Any]:
    """Loads catalog entries, also parameters (``params:text2mask``), and runs nothing."""
    with KedroSession.create(root, env=env, runtime_params=changes) as session:
        assert isinstance(session, KedroSession)
        catalog = session.load_context().catalog
        return [catalog.load(name) for name in read]


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
