"""params:world ─► coco, voc2012, coco2014, mug19: independent of each other."""

from __future__ import annotations

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.world import nodes

# Catalog entry -> the node's function. The node reads the path of the folder from `<entry>_folder`.
DATASETS = {
    "coco": nodes.make_coco,
    "voc2012": nodes.make_voc2012,
    "coco2014": nodes.make_coco2014,
    "mug19": nodes.make_mug19,
}


def create_pipeline(datasets: Sequence[str] = tuple(DATASETS)) -> Pipeline:
    """The nodes that make ``datasets``, by default all: a pipeline asks for what it reads."""
    return Pipeline(
        [
            Node(
                DATASETS[name],
                ["params:world", f"{name}_folder"],
                name,
                name=f"make_{name}",
                tags=["world", name],
            )
            for name in datasets
        ]
    )
