"""params:world ─► coco, voc2012, coco2014, mug19: independent of each other."""

from __future__ import annotations

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.world.nodes import maker
from diffground.world.datasets import DATASETS


def create_pipeline(datasets: Sequence[str] = tuple(DATASETS)) -> Pipeline:
    """The nodes that make ``datasets``, by default all: a pipeline asks for what it reads."""
    return Pipeline(
        [
            Node(
                maker(name),
                ["params:world", f"{name}_folder"],
                name,
                name=f"make_{name}",
                tags=["world", name],
            )
            for name in datasets
        ]
    )
