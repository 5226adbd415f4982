"""The named pipelines, each a sum of packages under :mod:`diffground.pipelines`.

A name stands for all that its command needs on a fresh clone: ``png_train`` begins with the mini
world, which is not made again where it is already there and valid (:mod:`diffground.manifest`).
The list is explicit, because Kedro's own discovery imports only the package with the requested name
and so cannot see a sum.
"""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from importlib import import_module
from pathlib import Path

from kedro.pipeline import Pipeline

# Name -> the packages it is the sum of. To add a pipeline, add a line.
PIPELINES: dict[str, tuple[str, ...]] = {
    "world": ("world",),
    "foundation": ("foundation", "foundation_eval"),
    "foundation_eval": ("foundation_eval",),
    "png_train": ("world", "png_train"),
    "png_eval": ("world", "png_eval"),
    "png_insertion": ("world", "png_insertion"),
    "__default__": ("world", "png_train"),
}


def register_pipelines() -> dict[str, Pipeline]:
    """All pipelines of the project, for Kedro."""
    there = {p.parent.name for p in (Path(__file__).parent / "pipelines").glob("*/__init__.py")}
    recipes = {n: [p for p in r if p in there] for n, r in PIPELINES.items()}  # until all are there
    return compose({n: r for n, r in recipes.items() if r}, "diffground.pipelines")


def compose(recipes: Mapping[str, Sequence[str]], package: str) -> dict[str, Pipeline]:
    """Sums ``create_pipeline()`` of the modules ``package.<part>`` for every recipe.

    A part that cannot be imported is an error, never a missing pipeline.
    """
    parts = {
        part: import_module(f"{package}.{part}").create_pipeline()
        for part in dict.fromkeys(part for recipe in recipes.values() for part in recipe)
    }
    return {name: sum((parts[p] for p in recipe), Pipeline([])) for name, recipe in recipes.items()}
