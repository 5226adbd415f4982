"""dataset + model ─► a map for every class of every image."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.attention_aggregation.nodes import aggregate, locate_text2mask


def create_pipeline() -> Pipeline:
    """The maps of the splits that ``params:text2mask`` names."""
    aggregation = Pipeline(
        [
            Node(
                aggregate,
                ["text2mask_folders", "text2mask_diffusion", "params:text2mask"],
                "text2mask_maps_report",
                name="aggregate_attention",
            )
        ],
        tags=["text2mask", "attention_aggregation"],
    )
    return location() + aggregation


def location(*, coco: bool = False) -> Pipeline:
    """Where Text2Mask reads and writes, said once for every node.

    ``coco`` waits for the COCO data to be there, for pipelines that begin with making it; else its
    folder is only named, and may be missing if it is not asked for.
    """
    return Pipeline(
        [
            Node(
                locate_text2mask,
                [
                    "voc2012",
                    "coco2014" if coco else "coco2014_folder",
                    "text2mask_images",
                    "text2mask_maps",
                    "text2mask_masks",
                    "text2mask_models",
                ],
                "text2mask_folders",
                name="locate_text2mask",
            )
        ],
        tags=["text2mask"],
    )
