"""Figures and pictures of the mini models."""

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.foundation_eval import nodes


def create_pipeline() -> Pipeline:
    """From the shipped folders to ``foundation.json`` and two picture grids."""
    return Pipeline(
        [
            Node(
                nodes.assess,
                [
                    "mini_sd",
                    "mini_clip",
                    "mini_segmenter",
                    "params:world",
                    "params:foundation_quality",
                ],
                ["foundation_quality", "foundation_generations", "foundation_attention"],
                name="assess_foundation",
            )
        ],
        tags=["foundation", "foundation_eval"],
    )
