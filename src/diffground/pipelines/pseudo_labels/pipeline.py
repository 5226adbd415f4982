"""maps ─► dense CRF ─► pseudo masks ─► mIoU, Figure 4."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.pseudo_labels.nodes import draw_masks, label, measure


def create_pipeline() -> Pipeline:
    """The masks of what ``attention_aggregation`` has mapped."""
    inputs = ["text2mask_folders", "text2mask_diffusion", "params:text2mask"]
    return Pipeline(
        [
            Node(
                label,
                [*inputs, "text2mask_maps_report"],
                "text2mask_masks_report",
                name="make_pseudo_labels",
            ),
            Node(
                measure,
                [*inputs, "text2mask_masks_report"],
                "text2mask_metrics",
                name="measure_pseudo_labels",
            ),
            Node(
                draw_masks,
                [*inputs, "text2mask_masks_report"],
                "text2mask_figure4",
                name="draw_text2mask_figure4",
            ),
        ],
        tags=["text2mask", "pseudo_labels"],
    )
