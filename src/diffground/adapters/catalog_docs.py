"""Writes catalog_docs/README.md from the catalog: what every dataset is, who makes and reads it.

``python -m diffground.adapters.catalog_docs`` (``make catalog_docs``) writes the file; a test
keeps it in step. The words come from each entry's ``metadata:``, checked by
:class:`EntryMetadata`; types and places from the entry; writers and readers from the registered
pipelines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from diffground.adapters.config_loader import DEFAULT_ENV, LOADER_ARGS, ProjectConfigLoader
from diffground.config import Config
from diffground.errors import InputError

DOCS = Path("catalog_docs") / "README.md"
# In their order: "pretrained" are models that pipelines only read, "models" what they train.
Layer = Literal[
    "raw",
    "pretrained",
    "intermediate",
    "primary",
    "feature",
    "model_input",
    "models",
    "model_output",
    "reporting",
]
LAYERS: tuple[Layer, ...] = get_args(Layer)

HEAD = """# The data catalog

Written by `make catalog_docs` from `conf/base/catalog*.yml` and the pipelines: change it there.
Paths are those of the mini scale (`conf/mini`); `--env paper` may name other places. Sizes are
given for both scales. `make viz` shows the same beside every entry, and what it holds now.

Layers: what is read (raw, pretrained: models that nothing here changes), what is made of it
(intermediate to model_output), and what is for people (reporting). `<name>_folder` is where a node
makes `<name>`: an input of that node.
"""


class Size(Config):
    """How much there is: "2,000 images, 40 MB"."""

    mini: str
    paper: str


class VizMetadata(Config):
    """What Kedro-Viz reads."""

    layer: Layer
    preview_args: dict[str, str] = {}  # of diffground.adapters.datasets.previews


class EntryMetadata(Config):
    """``metadata:`` of a catalog entry. Either ``fields`` or ``shape`` says what is inside."""

    description: str = Field(min_length=10)
    fields: dict[str, str] = {}  # field, column or file inside -> what it is
    shape: str = ""  # of arrays, with the dtype and the meaning of the axes
    units: str = Field(min_length=1)  # of the numbers: "pixels", "percent", "none"
    size: Size
    run_log: Literal["file"] | None = None  # no figures of a run: MLflow keeps the file alone
    viz: VizMetadata = Field(alias="kedro-viz")

    @model_validator(mode="after")
    def _says_what_is_inside(self) -> EntryMetadata:
        if not self.fields and not self.shape:
            raise ValueError("needs `fields` or `shape`")
        return self


def load_catalog(project: Path, env: str = DEFAULT_ENV) -> dict[str, dict[str, Any]]:
    """The catalog's entries as configured, with paths relative to the project.

    Raises:
        InputError: naming the entry and the field whose metadata is missing or wrong.
    """
    loader = ProjectConfigLoader(str(project / "conf"), env=env, **LOADER_ARGS)
    entries = {k: dict(v) for k, v in loader["catalog"].items() if not k.startswith("_")}
    for name, entry in entries.items():
        try:
            entry["metadata"] = EntryMetadata.model_validate(entry.get("metadata") or {})
        except ValidationError as error:
            first = error.errors()[0]
            field = ".".join(str(part) for part in ("metadata", *first["loc"]))
            raise InputError(f"conf/base: {name}", field, first["msg"]) from error
    return entries


def writers_and_readers(pipelines: Mapping[str, Any]) -> dict[str, tuple[list[str], list[str]]]:
    """Dataset -> names of the nodes that write it, and of those that read it.

    Args:
        pipelines: name -> ``kedro.pipeline.Pipeline``.
    """
    writers: dict[str, set[str]] = defaultdict(set)
    readers: dict[str, set[str]] = defaultdict(set)
    for pipeline in pipelines.values():
        for node in pipeline.nodes:
            for name in node.outputs:
                writers[name].add(node.name)
            for name in node.inputs:
                readers[name].add(node.name)
    return {n: (sorted(writers[n]), sorted(readers[n])) for n in {*writers, *readers}}


def render(entries: Mapping[str, Mapping[str, Any]], pipelines: Mapping[str, Any]) -> str:
    """The document: a table of contents per layer, then a section per entry."""
    used = writers_and_readers(pipelines)
    by_layer = {
        layer: sorted(n for n, e in entries.items() if e["metadata"].viz.layer == layer)
        for layer in LAYERS
    }
    lines = [HEAD, "| layer | entries |", "| --- | --- |"]
    lines += [
        f"| {layer} | {', '.join(f'[{name}](#{name})' for name in names)} |"
        for layer, names in by_layer.items()
        if names
    ]
    for layer, names in by_layer.items():
        for name in names:
            lines += ["", *_section(name, layer, entries[name], *used.get(name, ([], [])))]
    return "\n".join(lines) + "\n"


def generate(project: Path) -> str:
    """The document of the project as it is now."""
    from diffground.pipeline_registry import register_pipelines

    return render(load_catalog(project), register_pipelines())


def main() -> None:
    """Writes the document of the project in the current folder."""
    project = Path.cwd()
    path = project / DOCS
    path.parent.mkdir(exist_ok=True)
    path.write_text(generate(project), encoding="utf-8")


def _section(
    name: str, layer: str, entry: Mapping[str, Any], writers: list[str], readers: list[str]
) -> list[str]:
    meta: EntryMetadata = entry["metadata"]
    lines = [f"## {name}", "", meta.description.strip(), "", "| | |", "| --- | --- |"]
    rows = {
        "type": f"`{entry['type']}`",
        "place": f"`{place}`"
        if (place := entry.get("filepath") or entry.get("path"))
        else "memory",
        "layer": layer,
        "shape": meta.shape,
        "units": meta.units,
        "size, mini": meta.size.mini,
        "size, paper": meta.size.paper,
        "written by": ", ".join(f"`{node}`" for node in writers) or "nobody: it must be there",
        "read by": ", ".join(f"`{node}`" for node in readers) or "people",
    }
    lines += [f"| {key} | {_cell(value)} |" for key, value in rows.items() if value]
    if meta.fields:
        lines += ["", "| field | what it is |", "| --- | --- |"]
        lines += [f"| `{key}` | {_cell(value)} |" for key, value in meta.fields.items()]
    return lines


def _cell(text: str) -> str:
    return " ".join(text.split()).replace("|", "\\|")


if __name__ == "__main__":
    main()
