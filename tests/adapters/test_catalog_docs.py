"""The catalog's documentation: complete, and in step with the catalog and the pipelines."""

from __future__ import annotations

from pathlib import Path

import pytest
from kedro.pipeline import Node, Pipeline

from diffground.adapters.catalog_docs import DOCS, generate, load_catalog, render
from diffground.errors import InputError

METADATA = """
maps:
  type: json.JSONDataset
  filepath: data/maps.json
  metadata:
    description: Attention maps | of every phrase.
    shape: (K, h, w) float32 in [0, 1]
    units: none
    size: {mini: 1 MB, paper: 2 GB}
    kedro-viz: {layer: feature}
"""


def project(tmp_path: Path, catalog: str) -> Path:
    (tmp_path / "conf" / "base").mkdir(parents=True)
    (tmp_path / "conf" / "mini").mkdir()
    (tmp_path / "conf" / "base" / "catalog.yml").write_text(catalog)
    return tmp_path


def test_the_committed_documents_are_up_to_date(root: Path) -> None:
    """And none is left of what there is no more."""
    there = {path.name: path.read_text("utf-8") for path in (root / DOCS).iterdir()}
    assert there == generate(root), "run `make catalog_docs`"


def test_every_entry_has_its_place(root: Path) -> None:
    files = generate(root)
    for name, entry in load_catalog(root).items():
        page = f"{entry['metadata'].viz.layer}.md"
        assert f"\n## {name}\n" in files[page] and f"({page}#{name})" in files["README.md"]


@pytest.mark.parametrize("env", ["mini", "paper"])
def test_every_entry_is_described(root: Path, env: str) -> None:
    assert load_catalog(root, env)


def test_renders_types_sizes_writers_and_readers(tmp_path: Path) -> None:
    pipeline = Pipeline(
        [Node(len, "raw", "maps", name="probe"), Node(len, "maps", "score", name="judge")]
    )
    files = render(load_catalog(project(tmp_path, METADATA)), {"png:all": pipeline})
    assert set(files) == {"README.md", "feature.md", "png.svg"}
    assert "| [feature](feature.md) | [maps](feature.md#maps) |" in files["README.md"].splitlines()
    assert "![Data of png](png.svg)" in files["README.md"]
    assert ">maps</text>" in files["png.svg"] and ">probe</text>" in files["png.svg"]
    for line in (
        "## maps",
        "| type | `json.JSONDataset` |",
        "| place | `data/maps.json` |",
        "| shape | (K, h, w) float32 in [0, 1] |",
        "| size, paper | 2 GB |",
        "| written by | `probe` |",
        "| read by | `judge` |",
    ):
        assert line in files["feature.md"].splitlines()


@pytest.mark.parametrize(
    ("old", "new", "field"),
    [
        ("    description: Attention maps | of every phrase.\n", "", "metadata.description"),
        ("    shape: (K, h, w) float32 in [0, 1]\n", "", "needs `fields` or `shape`"),
        ("paper: 2 GB", "huge: 2 GB", "metadata.size.paper"),
        ("layer: feature", "layer: 04_feature", "kedro-viz.layer"),
        ("    units: none\n", "    unit: none\n", "metadata.units"),
    ],
)
def test_names_the_entry_that_lacks_something(
    tmp_path: Path, old: str, new: str, field: str
) -> None:
    assert old in METADATA
    with pytest.raises(InputError, match="conf/base: maps") as caught:
        load_catalog(project(tmp_path, METADATA.replace(old, new)))
    assert field in str(caught.value)
