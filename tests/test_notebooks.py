"""The notebooks: clean in git, and they run from their first cell to their last."""

from __future__ import annotations

import json
import shutil
from pathlib import Path
from typing import Any

import papermill
import pytest

NOTEBOOKS = sorted((Path(__file__).parents[1] / "notebooks").glob("*.ipynb"))

# Parameters that make a notebook small.
_TABLES = {
    "seeds": "0",
    "max_steps": 2,
    "params": "world.coco_panoptic.train=16,world.coco_panoptic.val=8,png_tables.figures=1",
}
SMALL: dict[str, dict[str, Any]] = {
    "png_components": _TABLES | {"rows": "Baseline;+ EIPA + MLMA"},
    "png_insertion": _TABLES | {"rows": "No-Adapter;Encoder"},
    "png_mlma": _TABLES | {"rows": "Deform-Attn"},
}


@pytest.fixture
def project(root: Path, tmp_path: Path) -> Path:
    """A copy of the project with empty data folders: runs leave nothing in the real one."""
    for name in ("pyproject.toml", ".telemetry"):
        shutil.copy(root / name, tmp_path / name)
    shutil.copytree(root / "conf", tmp_path / "conf", ignore=shutil.ignore_patterns("local"))
    (tmp_path / "conf/local").mkdir()
    shutil.copytree(root / "src/diffground", tmp_path / "src/diffground")
    models = tmp_path / "data/06_models"
    models.mkdir(parents=True)
    for folder in (root / "data/06_models").glob("mini-*"):
        (models / folder.name).symlink_to(folder)
    return tmp_path


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_committed_clean(path: Path) -> None:
    notebook = json.loads(path.read_text("utf-8"))
    cells = [cell for cell in notebook["cells"] if cell["cell_type"] == "code"]
    assert not any(cell["outputs"] or cell["execution_count"] for cell in cells)
    tagged = [cell for cell in cells if "parameters" in cell["metadata"].get("tags", ())]
    assert len(tagged) == 1
    assert notebook["metadata"]["kernelspec"]["name"] == "python3"
    assert "papermill" not in notebook["metadata"]


@pytest.mark.parametrize("path", NOTEBOOKS, ids=lambda path: path.stem)
def test_runs(path: Path, project: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("DIFFGROUND_RUN_LOG", "0")
    parameters = {"project": str(project), **SMALL[path.stem]}
    done = papermill.execute_notebook(
        path,
        project / "done.ipynb",
        parameters=parameters,
        kernel_name="python3",
        progress_bar=False,
    )
    assert not any(
        output["output_type"] == "error"
        for cell in done.cells
        for output in cell.get("outputs", ())
    )
    written = json.loads((project / "data/08_reporting/png_tables.json").read_text("utf-8"))
    assert written[0]["scale"] == "mini"
    assert len(written[0]["rows"]) == len(SMALL[path.stem]["rows"].split(";"))
