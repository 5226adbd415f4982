"""coco + model ─► Average Recall ─► recall curve, overlays."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.png_eval.nodes import (
    draw_overlays,
    draw_recall_curve,
    evaluate_png,
    evaluate_trained_png,
    locate_png,
)


def create_pipeline() -> Pipeline:
    """Evaluation of what lies on disk, or of zero-shot static prompting."""
    return location() + evaluation(after_training=False)


def location() -> Pipeline:
    """Where PNG experiments read and write, said once for every node that runs one."""
    return Pipeline(
        [
            Node(
                locate_png,
                ["coco", "png_models", "png_features", "panoptic_weights"],
                "png_folders",
                name="locate_png",
            )
        ],
        tags=["png"],
    )


def evaluation(*, after_training: bool) -> Pipeline:
    """The evaluation nodes; behind a training they wait for its ``png_model``."""
    inputs = ["png_folders", "stable_diffusion", "params:png"]
    return Pipeline(
        [
            Node(
                evaluate_trained_png if after_training else evaluate_png,
                [*inputs, "png_model"] if after_training else inputs,
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
        ],
        tags=["png", "png_eval"],
    )
