"""Kedro-Viz: layers in every pipeline, tags on every node, and a page for every entry."""

from __future__ import annotations

import html
import json
import logging
import re
from collections.abc import Iterator
from pathlib import Path

import pytest
from kedro_viz.data_access.managers import DataAccessManager
from kedro_viz.integrations.kedro.data_loader import load_data
from kedro_viz.models.flowchart.node_metadata import DataNodeMetadata
from kedro_viz.models.flowchart.nodes import DataNode, TaskNode
from kedro_viz.server import populate_data
from PIL import Image

from diffground.adapters.catalog_docs import LAYERS
from diffground.adapters.datasets import DataFolderDataset, MadeFolderDataset, TargetFolderDataset
from diffground.adapters.datasets.files import ImageDataset, JSONDataset, MemoryDataset, TextDataset
from diffground.pipeline_registry import PIPELINES, register_pipelines


@pytest.fixture(scope="module")
def viz(root: Path) -> DataAccessManager:
    """The project as Kedro-Viz reads it."""
    manager = DataAccessManager()
    populate_data(manager, *load_data(root))
    return manager


@pytest.fixture
def warnings(caplog: pytest.LogCaptureFixture) -> Iterator[pytest.LogCaptureFixture]:
    with caplog.at_level(logging.WARNING):
        yield caplog


@pytest.mark.parametrize("pipeline", PIPELINES)
def test_the_layers_of_every_pipeline_are_shown(
    viz: DataAccessManager, warnings: pytest.LogCaptureFixture, pipeline: str
) -> None:
    """Layers that lead back to each other are none: Kedro-Viz then leaves all of them out."""
    order = viz.get_sorted_layers_for_registered_pipeline(pipeline)
    assert order and not warnings.records, warnings.text
    nodes = viz.get_nodes_for_registered_pipeline(pipeline)
    layers = {node.layer for node in nodes if isinstance(node, DataNode) and node.layer}
    assert layers <= set(order) and layers


def test_the_layers_are_in_order(viz: DataAccessManager) -> None:
    nodes = viz.get_nodes_for_registered_pipeline("text2mask")
    used = {node.layer for node in nodes if isinstance(node, DataNode)}
    order = viz.get_sorted_layers_for_registered_pipeline("text2mask")
    aside = {"pretrained"}  # beside "raw": neither leads to the other
    expected = [layer for layer in LAYERS if layer in used - aside]
    assert len(expected) == 7 and [layer for layer in order if layer in used - aside] == expected


def test_every_entry_has_a_layer_and_no_node_waits_for_a_report(viz: DataAccessManager) -> None:
    """What is for people goes on to nothing else."""
    for name, pipeline in register_pipelines().items():
        shown = viz.get_nodes_for_registered_pipeline(name)
        layers = {node.name: node.layer for node in shown if isinstance(node, DataNode)}
        assert all(layers.values()), name
        for node in pipeline.nodes:
            made = {layers[output] for output in node.outputs}
            told = {layers[i] for i in node.inputs if not i.startswith("params:")}
            assert "reporting" not in told or made == {"reporting"}, node.name


def test_every_node_has_tags(viz: DataAccessManager) -> None:
    families = {
        "world", "png", "text2mask", "personalized", "grounded", "ground", "foundation", "report",
    }  # fmt: skip
    nodes = [node for node in viz.nodes.as_list() if isinstance(node, TaskNode)]
    assert len(nodes) > 20
    for node in nodes:
        assert len(families & node.tags) == 1, f"{node.name}: {node.tags}"


def test_every_entry_has_a_page_with_its_words(
    viz: DataAccessManager, warnings: pytest.LogCaptureFixture
) -> None:
    nodes = [node for node in viz.nodes.as_list() if isinstance(node, DataNode)]
    assert len(nodes) > 40
    for node in nodes:
        shown = DataNodeMetadata(data_node=node)
        assert shown.preview_type == "HTMLPreview", node.name
        description = node.kedro_obj.metadata["description"].strip()
        assert description in as_shown(shown.preview), node.name
    assert not warnings.records, warnings.text


def as_shown(page: str) -> str:
    """The text of a page after Kedro-Viz's Markdown: italics of ``_`` and ``*``, then lines."""
    parsed = page.replace("&#10;", "\n")  # as the browser hands it on
    for mark in ("_", r"\*"):
        parsed = re.sub(rf"{mark}(.*?){mark}", r"<em>\1</em>", parsed)
    return html.unescape(re.sub("<.*?>", "", parsed, flags=re.S))


METADATA = {
    "description": "Maps of png_train and png_eval, *all* of them.",
    "fields": {"a_b_c": "x < y & *.png"},
    "units": "none",
    "size": {"mini": "1 kB"},
}


def test_words_are_shown_as_they_are() -> None:
    shown = as_shown(MemoryDataset(metadata=METADATA).preview())
    for text in ("png_train and png_eval, *all* of", "a_b_c", "x < y & *.png", "In memory"):
        assert text in shown


def test_files_are_shown(tmp_path: Path) -> None:
    picture = ImageDataset(filepath=str(tmp_path / "overlay.png"), metadata=METADATA)
    assert "Not there yet." in picture.preview()
    picture.save(Image.new("RGB", (4, 4)))
    assert "data:image/png;base64," in picture.preview()
    text = TextDataset(filepath=str(tmp_path / "found.md"))
    text.save("| seen_in | 3 |\n" + "x" * 9000)
    shown = as_shown(text.preview())
    assert "| seen_in | 3 |" in shown and "3016 characters more" in shown
    numbers = JSONDataset(filepath=str(tmp_path / "metrics.json"))
    numbers.save({"ar": {"overall": 1.5}})
    assert '"overall": 1.5' in as_shown(numbers.preview())


def test_folders_are_shown(tmp_path: Path) -> None:
    (tmp_path / "images").mkdir()
    (tmp_path / "list.json").write_text("{}")
    folder = DataFolderDataset(filepath=str(tmp_path), manifest=False)
    assert as_shown(folder.preview()).split() == ["images/list.json", "0.0", "kB"]
    for number in range(6):
        Image.new("RGB", (4, 4)).save(tmp_path / f"images/{number}.png")
    assert folder.preview(show="images/*.png").count("<img") == 4
    assert "Not there yet." in TargetFolderDataset(filepath=str(tmp_path / "new")).preview()


def test_a_trained_model_is_the_one_that_was_trained_last(tmp_path: Path) -> None:
    def dataset() -> MadeFolderDataset:
        return MadeFolderDataset(filepath=str(tmp_path), markers=["*.json"], remedy="train it")

    first, second = dataset(), dataset()
    assert not first.exists()
    with pytest.raises(Exception, match=r"nothing was made here yet; train it"):
        first.load()
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
    with pytest.raises(Exception, match=r"a: \*\.json: the folder lacks it"):
        first.save(tmp_path / "a")
    assert not first.exists()
    for name in ("a", "b"):
        (tmp_path / name / "training.json").write_text("{}")
    first.save(tmp_path / "a")
    second.save(tmp_path / "b")
    assert first.load() == tmp_path / "a", "what another run trains is not taken for ours"
    assert second.load() == dataset().load() == tmp_path / "b"
    assert "training.json" in dataset().preview()
    with pytest.raises(Exception, match="the node wrote elsewhere"):
        first.save(tmp_path)
    json.dumps(first._describe())
