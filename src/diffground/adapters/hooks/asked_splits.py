"""The splits and lists that a run asks for, looked for before its first node.

A name that does not exist would otherwise come up after whatever precedes its first reader, a whole
training say. Where the run makes the data itself, what it will make is compared.
"""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

from kedro.io import DataCatalog
from kedro.pipeline import Pipeline

from diffground.errors import InputError

if TYPE_CHECKING:  # their modules bring in torch, which only a run that has them waits for
    from diffground.data.image_lists import Source
    from diffground.papers.png.config import PngConfig
    from diffground.world.config import WorldConfig


def check_splits(pipeline: Pipeline, catalog: DataCatalog) -> None:
    """Raises InputError for the first split that is neither there nor made by ``pipeline``."""
    asked = {name for name in pipeline.inputs() if name.startswith("params:")}
    world: WorldConfig | None = catalog.load("params:world") if "params:world" in asked else None
    making = pipeline.all_outputs() if world and world.make else set()
    if "params:png" in asked:
        png = catalog.load("params:png")
        for field, split in _png_splits(pipeline, catalog, png):
            _check_narrated(_folder(catalog, "coco"), split, field, made="coco" in making)
    for field, source in _sources(pipeline, catalog, asked):
        _check_listed(catalog, source, field, world if source.dataset in making else None)


def _png_splits(
    pipeline: Pipeline, catalog: DataCatalog, png: PngConfig
) -> Iterator[tuple[str, str]]:
    """Field and name of the splits that a PNG pipeline reads."""
    if pipeline.datasets() & {"png_doctor", "png_train_narratives"}:
        yield "train", png.splits.train
    if "params:ground" in pipeline.inputs():
        ground = catalog.load("params:ground")
        if ground.source is not None or ground.prompt is not None:
            return
    yield "val", png.splits.val


def _check_narrated(coco: Path, split: str, field: str, *, made: bool) -> None:
    if made:
        from diffground.world.coco_panoptic import SPLITS

        there = list(SPLITS)
    elif coco.is_dir():
        prefix = "png_coco_"
        files = sorted((coco / "annotations").glob(f"{prefix}*.json"))
        there = [file.stem.removeprefix(prefix) for file in files]
    else:
        return  # whoever looks at the folder first says that it is missing, and what to do
    if split not in there:
        reason = f"there is no split {split!r} in {coco}; there are {', '.join(there) or 'none'}"
        raise InputError("png", f"splits.{field}", reason)


def _sources(
    pipeline: Pipeline, catalog: DataCatalog, asked: set[str]
) -> Iterator[tuple[str, Source]]:
    """Field and source of the lists that a Text2Mask pipeline reads."""
    found: dict[str, Any] = {}
    if "params:text2mask" in asked:
        text2mask = catalog.load("params:text2mask")
        found = {"text2mask.source": text2mask.source, "text2mask.val": text2mask.val}
        if "text2mask_splits" in pipeline.datasets():
            found["text2mask.test"] = text2mask.test
    if "params:text2mask_tables" in asked:
        tables = catalog.load("params:text2mask_tables")
        found["text2mask_tables.train"] = tables.train
        if tables.coco is not None:
            found["text2mask_tables.coco.train"] = tables.coco.train
            found["text2mask_tables.coco.val"] = tables.coco.val
    yield from ((field, source) for field, source in found.items() if source is not None)


def _check_listed(
    catalog: DataCatalog, source: Source, field: str, world: WorldConfig | None
) -> None:
    from diffground.data.image_lists import list_path, open_list

    entry = {"folder": "text2mask_images"}.get(source.dataset, f"{source.dataset}_folder")
    root = _folder(catalog, entry)
    file, _, name = field.partition(".")
    if world is not None:
        from diffground.world import coco_segmentation, voc

        lists = voc.list_paths(world) | coco_segmentation.list_paths()
        if list_path(source) not in lists:
            reason = f"the world has no {list_path(source)}; there are {', '.join(sorted(lists))}"
            raise InputError(file, name, reason)
        return
    try:
        rows = open_list(source, root).rows
    except InputError as error:
        raise InputError(file, name, str(error)) from error
    if not rows:
        raise InputError(file, name, f"{root / list_path(source)} is empty")


def _folder(catalog: DataCatalog, name: str) -> Path:
    """Where a folder of the catalog lies, whether or not it is there."""
    dataset: Any = catalog.get(name)
    return Path(dataset.folder)
