"""The report's pipeline, with nothing measured and with something, as Kedro runs it."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
from kedro.io import DataCatalog, MemoryDataset
from kedro.pipeline import Node, Pipeline
from kedro.runner import SequentialRunner
from PIL import Image

from diffground.adapters.datasets.files import (
    JSONDataset,
    OptionalImageDataset,
    OptionalJSONDataset,
    OptionalMatplotlibDataset,
    TextDataset,
)
from diffground.adapters.hooks import InputsHook
from diffground.errors import InputError
from diffground.pipelines.report import create_pipeline

KINDS = {"tables": OptionalJSONDataset, "metrics": OptionalJSONDataset}


def catalog(folder: Path) -> DataCatalog:
    """Every input as a file that may be there, both outputs as files."""
    datasets = {}
    for name in sorted(create_pipeline().inputs()):
        kind = KINDS.get(name.rpartition("_")[2], OptionalImageDataset)
        suffix = "json" if kind is OptionalJSONDataset else "png"
        datasets[name] = kind(filepath=str(folder / f"{name}.{suffix}"))
    datasets["report"] = JSONDataset(filepath=str(folder / "report.json"))
    datasets["report_page"] = TextDataset(filepath=str(folder / "report.html"))
    return DataCatalog(datasets)


def test_it_runs_with_nothing_and_with_something(tmp_path: Path) -> None:
    entries = catalog(tmp_path)
    InputsHook().before_pipeline_run(create_pipeline(), entries)
    SequentialRunner().run(create_pipeline(), entries)
    first = json.loads((tmp_path / "report.json").read_text("utf-8"))
    states = [item["state"] for part in first["parts"] for item in part["items"]]
    assert {*states} == {"not measured yet", "in the code", "not reproduced"}
    assert first["made"]["commit"] and first["hardware"] and first["versions"]["torch"]

    Image.new("RGB", (40, 30), "red").save(tmp_path / "png_figure5.png")
    metrics = {"ar": {"overall": 40.0}, "insertion": "both", "zero_shot": False, "scale": "mini"}
    (tmp_path / "png_metrics.json").write_text(json.dumps(metrics))
    SequentialRunner().run(create_pipeline(), catalog(tmp_path))
    second = json.loads((tmp_path / "report.json").read_text("utf-8"))
    filled = [
        i["label"] for part in second["parts"] for i in part["items"] if i["state"] == "measured"
    ]
    assert filled == ["Table 1", "Figure 5"]
    page = (tmp_path / "report.html").read_text("utf-8")
    assert "data:image/png;base64," in page and "40.0" in page


@pytest.mark.parametrize(
    "kind", [OptionalJSONDataset, OptionalImageDataset, OptionalMatplotlibDataset]
)
def test_only_a_report_is_run_without_what_it_reads(tmp_path: Path, kind: type) -> None:
    """Others would be given None, and are told what is missing instead."""
    dataset = kind(filepath=str(tmp_path / "missing"))
    assert dataset.load() is None
    entries = DataCatalog({"found": dataset, "out": MemoryDataset()})
    reading = Node(repr, "found", "out", name="read", tags=["report"])
    InputsHook().before_pipeline_run(Pipeline([reading]), entries)
    other = Node(len, "found", "more", name="other")
    with pytest.raises(InputError, match="found: it is not there"):
        InputsHook().before_pipeline_run(Pipeline([reading, other]), entries)


def test_a_figure_is_read_as_the_picture_that_was_kept(tmp_path: Path) -> None:
    from matplotlib.figure import Figure

    dataset = OptionalMatplotlibDataset(filepath=str(tmp_path / "a.png"))
    dataset.save(Figure(figsize=(2, 1), dpi=50))
    assert dataset.load().size == (100, 50)


def test_a_file_that_cannot_be_read_is_named(tmp_path: Path) -> None:
    (tmp_path / "png_tables.json").write_text("{torn")
    with pytest.raises(Exception, match=r"png_tables\.json: content: cannot be read"):
        SequentialRunner().run(create_pipeline(), catalog(tmp_path))
