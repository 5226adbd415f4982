"""Writes catalog_docs/catalog/ from the catalog: what every dataset is, who makes and reads it.

``python -m diffground.adapters.catalog_docs`` (``make catalog_docs``) writes the files, a page a
layer and a drawing a package of pipelines; a test keeps them in step. The words come from each
entry's ``metadata:``, checked by :class:`EntryMetadata`; types and places from the entry; writers
and readers from the registered pipelines.
"""

from __future__ import annotations

from collections import defaultdict
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, Literal, get_args

from pydantic import Field, ValidationError, model_validator

from diffground.adapters.config_loader import DEFAULT_ENV, LOADER_ARGS, ProjectConfigLoader
from diffground.adapters.site.diagram import Step, draw
from diffground.config import Config, refused

DOCS = Path("catalog_docs") / "catalog"
CONTENTS = "README.md"
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

# Below a layer's heading: what its entries look like. `make pictures` draws them.
SAMPLES: dict[str, tuple[tuple[str, str], ...]] = {
    "raw": (
        ("sample_coco", "COCO 2017 with narratives: a scene, and the segments of its phrases"),
        ("sample_voc2012", "VOC 2012: a scene, and its classes"),
        ("sample_coco2014", "COCO 2014: a scene, and its classes"),
        ("sample_mug19", "Mug19: pictures of an item, a scene, and what a triplet asks for"),
    ),
}

HEAD = """# The data catalog

Written by `make catalog_docs` from `conf/base/catalog*.yml` and the pipelines: change it there.
Paths are those of the mini scale (`conf/mini`); `--env paper` may name other places. Sizes are
given for both scales. `make viz` shows the same beside every entry, and what it holds now.

Layers: what is read (raw, pretrained: models that nothing here changes), what is made of it
(intermediate to model_output), and what is for people (reporting). `<name>_folder` is where a node
makes `<name>`: an input of that node.

| layer | entries |
| --- | --- |
"""
FLOWS = """
## How data flow

A drawing for each package of pipelines: boxes are entries, and coloured names are the nodes that
read what is above and write what is below. Folders where things are made, and parameters, are left
out.
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
            raise refused(f"conf/base: {name}", error, "metadata") from error
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


def render(
    entries: Mapping[str, Mapping[str, Any]], pipelines: Mapping[str, Any]
) -> dict[str, str]:
    """File below :data:`DOCS` -> its text: the contents, a page a layer, a drawing a package.

    Args:
        entries: as of :func:`load_catalog`.
        pipelines: ``package`` or ``package:parts`` -> ``kedro.pipeline.Pipeline``.
    """
    used = writers_and_readers(pipelines)
    packages: dict[str, dict[str, Step]] = defaultdict(dict)
    for name, pipeline in pipelines.items():
        for node in pipeline.nodes:
            step = Step(node.name, _data(node.inputs), _data(node.outputs))
            packages[name.partition(":")[0]][node.name] = step
    by_layer: dict[str, list[str]] = {
        layer: sorted(n for n, e in entries.items() if e["metadata"].viz.layer == layer)
        for layer in LAYERS
    }
    files: dict[str, str] = {}
    contents = [HEAD.rstrip("\n")]
    for layer, names in by_layer.items():
        if names:
            listed = ", ".join(f"[{name}]({layer}.md#{name})" for name in names)
            contents.append(f"| [{layer}]({layer}.md) | {listed} |")
            files[f"{layer}.md"] = _page(layer, names, entries, used)
    contents.append(FLOWS)
    for package, steps in sorted(packages.items()):
        files[f"{package}.svg"] = draw(by_layer, list(steps.values()))
        contents += [f"### {package}", "", f"![Data of {package}]({package}.svg)", ""]
    return {CONTENTS: "\n".join(contents).rstrip("\n") + "\n", **files}


def generate(project: Path) -> dict[str, str]:
    """The documents of the project as it is now."""
    from diffground.pipeline_registry import PIPELINES, compose

    parts = sorted({part for recipe in PIPELINES.values() for part in recipe})
    pipelines = compose({part: (part,) for part in parts}, "diffground.pipelines")
    return render(load_catalog(project), pipelines)


def main() -> None:
    """Writes the documents of the project in the current folder, and removes others."""
    folder = Path.cwd() / DOCS
    folder.mkdir(parents=True, exist_ok=True)
    files = generate(Path.cwd())
    for stale in {path.name for path in folder.iterdir()} - files.keys():
        (folder / stale).unlink()
    for name, text in files.items():
        (folder / name).write_text(text, encoding="utf-8")


def _data(names: Iterable[str]) -> list[str]:
    """Without parameters, and without folders where something is made."""
    kept = (n for n in names if not n.startswith("params:") and not n.endswith("_folder"))
    return sorted(kept)


def _page(
    layer: str,
    names: Sequence[str],
    entries: Mapping[str, Mapping[str, Any]],
    used: Mapping[str, tuple[list[str], list[str]]],
) -> str:
    lines = [f"# Catalog: {layer}", "", f"Written by `make catalog_docs`. [All layers]({CONTENTS})"]
    for picture, words in SAMPLES.get(layer, ()):
        lines += ["", f"![{words}](../pictures/{picture}.png)", "", f"{words} (mini world)."]
    for name in names:
        lines += ["", *_section(name, layer, entries[name], *used.get(name, ([], [])))]
    return "\n".join(lines) + "\n"


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
