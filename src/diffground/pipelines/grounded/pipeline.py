"""prompts ─► samples ─► scores ─► what was taken, and the grid."""

from __future__ import annotations

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.grounded import nodes

DATA = "params:grounding_data"


def create_pipeline(parts: Sequence[str]) -> Pipeline:
    """The sum of the parts, each of which goes on with what the last one made."""
    made = {"data": data}
    return sum((made[part]() for part in parts), Pipeline([]))


def data() -> Pipeline:
    """The synthetic sets of ``params:grounding_data``."""
    return Pipeline(
        [
            Node(nodes.plan_prompts, [DATA], "grounding_prompts", name="plan_grounding_prompts"),
            Node(
                nodes.make_samples,
                [
                    "grounding_prompts",
                    "stable_diffusion",
                    "grounding_segmenter",
                    "grounding_samples_folder",
                    DATA,
                ],
                ["grounding_samples", "grounding_samples_report"],
                name="make_grounding_samples",
            ),
            Node(
                nodes.score_samples,
                [
                    "grounding_samples",
                    "stable_diffusion",
                    "grounding_clip",
                    "grounding_scores_folder",
                    DATA,
                ],
                "grounding_scores",
                name="score_grounding_samples",
            ),
            Node(
                nodes.cache_features,
                [
                    "grounding_samples",
                    "grounding_scores",
                    "stable_diffusion",
                    "grounding_features_folder",
                    DATA,
                ],
                "grounding_features_report",
                name="cache_grounding_features",
            ),
            Node(
                nodes.report_samples,
                ["grounding_samples", "grounding_scores", DATA],
                ["grounding_data_report", "grounding_grid"],
                name="report_grounding_samples",
            ),
        ],
        tags=["grounded", "grounding_data"],
    )
