"""coco + model ─► Average Recall ─► recall curve, overlays."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.png_eval.nodes import (
    draw_overlays,
    draw_recall_curve,
    evaluate_png,
    evaluate_trained_png,
)


def create_pipeline() -> Pipeline:
    """Evaluation of what lies on disk, or of zero-shot static prompting."""
    return evaluation(after_training=False)


def evaluation(*, after_training: bool) -> Pipeline:
    """The evaluation nodes; behind a training they wait for its ``png_training``."""
    inputs = ["coco", "stable_diffusion", "png_models", "params:png"]
    return Pipeline(
        [
            Node(
                evaluate_trained_png if after_training else evaluate_png,
                [*inputs, "png_training"] if after_training else inputs,
                ["png_metrics", "png_phrases", "png_predictions"],
                name="evaluate_png",
            ),
            Node(
                draw_recall_curve,
                ["png_phrases", "png_metrics"],
                "png_recall_curve",
                name="draw_png_recall_curve",
            ),
            Node(
                draw_overlays,
                ["png_predictions", "params:png"],
                "png_overlays",
                name="draw_png_overlays",
            ),
        ]
    )
