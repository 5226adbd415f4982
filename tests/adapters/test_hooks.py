"""Of the processes of a distributed run, one writes."""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path

import pytest
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

PIPELINE = """
    from pathlib import Path
    from kedro.pipeline import Node, Pipeline
    from diffground.store.manifest import make_folder

    def make(folder: Path) -> Path:
        make_folder(folder, {}, lambda partial: (partial / "a.txt").write_text("a"))
        return folder

    def toy(folder: Path) -> dict:
        return {"steps": len(list(folder.glob("*.txt")))}

    def create_pipeline():
        return Pipeline([
            Node(make, "data_folder", "data", name="make"),
            Node(toy, "data", "toy_out", name="toy"),
        ])
"""
FILES = {
    "conf/base/parameters.yml": "{}",
    "conf/base/catalog.yml": """
        data_folder: {type: diffground.adapters.datasets.TargetFolderDataset, filepath: data/world}
        data: {type: diffground.adapters.datasets.DataFolderDataset, filepath: data/world}
        toy_out: {type: json.JSONDataset, filepath: data/toy.json}
        more_out: {type: json.JSONDataset, filepath: data/more.json}
    """,
}


@pytest.mark.parametrize("rank", [None, "0", "1"])
def test_only_the_first_process_writes_what_the_catalog_names(
    toy_project: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, rank: str | None
) -> None:
    """``toy_out`` travels from node to node either way, and made folders are made."""
    if rank is None:
        monkeypatch.delenv("RANK", raising=False)
    else:
        monkeypatch.setenv("RANK", rank)
    project = toy_project(PIPELINE, FILES)
    bootstrap_project(project)
    with KedroSession.create(project) as session:
        session.run(pipeline_names=["sum"])
    assert (project / "data/world/a.txt").exists()
    assert (project / "data/toy.json").exists() == (rank != "1")
    assert (project / "data/more.json").exists() == (rank != "1")
