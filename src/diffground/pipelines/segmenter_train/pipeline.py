"""pseudo masks ─► DeepLabV2 ─► mIoU on the validation split."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.segmenter_train.nodes import evaluate, train


def create_pipeline() -> Pipeline:
    """Training on what ``pseudo_labels`` made, then evaluation."""
    return Pipeline(
        [
            Node(
                train,
                [
                    "text2mask_folders",
                    "text2mask_diffusion",
                    "params:text2mask",
                    "text2mask_masks_report",
                ],
                ["text2mask_segmenter", "text2mask_training"],
                name="train_segmenter",
            ),
            Node(
                evaluate,
                [
                    "text2mask_folders",
                    "text2mask_diffusion",
                    "text2mask_predictions",
                    "params:text2mask",
                    "text2mask_segmenter",
                    "text2mask_metrics",
                ],
                "text2mask_segmenter_metrics",
                name="evaluate_segmenter",
            ),
        ],
        tags=["text2mask", "segmenter_train"],
    )
