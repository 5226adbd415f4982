"""Pipelines over a catalog in memory."""

from __future__ import annotations

from typing import Any

from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Pipeline
from kedro.runner import SequentialRunner


class _Kept(MemoryDataset):
    """Memory that the runner does not clear after its last reader."""

    def _release(self) -> None:
        pass


def run_in_memory(pipeline: Pipeline, inputs: dict[str, Any]) -> dict[str, Any]:
    """All that a pipeline made, by name. ``inputs`` may hold more than it asks for."""
    catalog = DataCatalog()
    for name in pipeline.datasets():
        catalog[name] = _Kept(copy_mode="assign")
    for name, value in inputs.items():
        if name in pipeline.inputs():
            catalog[name].save(value)
    SequentialRunner().run(pipeline, catalog)
    return {name: catalog[name].load() for name in pipeline.all_outputs()}
