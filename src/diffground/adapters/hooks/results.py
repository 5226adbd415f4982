"""The end of a run: where its results are."""

from __future__ import annotations

import logging
import os
import time
from pathlib import Path
from typing import Any

from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog

from diffground.adapters.datasets import FolderDataset, MadeFolderDataset
from diffground.progress import duration

log = logging.getLogger(__name__)

# Layers whose files are what a run is for.
SHOWN = ("model_input", "models", "model_output", "reporting")


class ResultsHook:
    """Says at the end of a run which reports, masks and weights it wrote."""

    def __init__(self) -> None:
        self._project = Path()
        self._catalog: DataCatalog | None = None
        self._made: dict[Path, None] = {}
        self._start = 0.0

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Paths are shown relative to the project."""
        self._project = Path(context.project_path)

    @hook_impl
    def before_pipeline_run(self, catalog: DataCatalog) -> None:
        """Begins with nothing made."""
        self._catalog, self._made, self._start = catalog, {}, time.monotonic()

    @hook_impl
    def after_dataset_saved(self, dataset_name: str) -> None:
        """Notes what was written."""
        entry = self._catalog.get(dataset_name) if self._catalog else None
        if layer(entry) not in SHOWN:
            return
        for place in places(entry):
            self._made[place] = None

    @hook_impl
    def after_pipeline_run(self, run_params: dict[str, Any]) -> None:
        """Lists it."""
        if not self._made or not is_first_process():
            return
        folders: dict[str, list[str]] = {}
        for path in sorted(self._made):
            inside = path.is_relative_to(self._project)
            shown = path.relative_to(self._project) if inside else path
            folders.setdefault(shown.parent.as_posix(), []).append(shown.name)
        lines = [f"  {folder}: {', '.join(names)}" for folder, names in folders.items()]
        name = "+".join(sorted(run_params["pipeline_names"] or ["__default__"]))
        spent = duration(time.monotonic() - self._start)
        end = "`make viz` shows where they come from"
        log.info(
            "%s is done after %s. Its results, in %s:\n%s\n%s",
            *(name, spent, self._project, "\n".join(lines), end),
        )


def is_first_process() -> bool:
    """Whether this is rank 0 of a distributed run (torchrun, accelerate), or an ordinary one."""
    return os.environ.get("RANK", "0") == "0"


def layer(entry: Any) -> str:
    """The layer of a catalog entry, "" if it names none."""
    metadata = getattr(entry, "metadata", None) or {}
    return str(metadata.get("kedro-viz", {}).get("layer", ""))


def places(entry: Any) -> list[Path]:
    """The folders or the file of a catalog entry, as far as they are there."""
    if isinstance(entry, MadeFolderDataset):
        return entry.folders()
    file = entry.folder if isinstance(entry, FolderDataset) else file_of(entry)
    return [file] if file else []


def file_of(entry: Any) -> Path | None:
    """The file of a catalog entry; None if it has none."""
    path = getattr(entry, "_filepath", None)
    return Path(str(path)) if path and Path(str(path)).is_file() else None
