"""coco, the frozen model ─► features."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.feature_extraction.nodes import extract_png_features


def create_pipeline() -> Pipeline:
    """What is frozen, extracted once for all trainings and evaluations."""
    return Pipeline(
        [
            Node(
                extract_png_features,
                [
                    "coco",
                    "stable_diffusion",
                    "png_features",
                    "params:png",
                    "params:feature_extraction",
                ],
                "png_features_report",
                name="extract_png_features",
            ),
        ],
        tags=["png", "feature_extraction"],
    )
