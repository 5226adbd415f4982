"""samples ─► maps ─► pseudo masks ─► DeepLabV2 ─► labels ─► mIoU; and the tables."""

from __future__ import annotations

from collections.abc import Sequence

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.text2mask import nodes
from diffground.pipelines.text2mask.tables import run_text2mask_tables

SETTINGS = "params:text2mask"


def create_pipeline(parts: Sequence[str]) -> Pipeline:
    """The sum of the parts, each of which goes on with what the last one made."""
    made = {"maps": maps, "masks": masks, "segmenter": segmenter, "tables": tables}
    return sum((made[part]() for part in parts), Pipeline([]))


def maps() -> Pipeline:
    """A map for every class of every image of the splits that ``params:text2mask`` names."""
    reading = Node(
        nodes.read_splits,
        ["voc2012", "coco2014_folder", "text2mask_images", SETTINGS],
        "text2mask_splits",
        name="read_text2mask_splits",
        tags=["text2mask"],
    )
    aggregation = Node(
        nodes.aggregate,
        ["text2mask_splits", "text2mask_diffusion", "text2mask_maps_folder", SETTINGS],
        ["text2mask_maps", "text2mask_maps_report"],
        name="aggregate_attention",
    )
    tags = ["text2mask", "attention_aggregation"]
    return Pipeline([reading]) + Pipeline([aggregation], tags=tags)


def masks() -> Pipeline:
    """Dense CRF, pseudo masks, mIoU, Figure 4."""
    return Pipeline(
        [
            Node(
                nodes.label,
                ["text2mask_splits", "text2mask_maps", "text2mask_masks_folder", SETTINGS],
                ["text2mask_masks", "text2mask_masks_report"],
                name="make_pseudo_labels",
            ),
            Node(
                nodes.measure,
                ["text2mask_splits", "text2mask_masks", SETTINGS],
                "text2mask_metrics",
                name="measure_pseudo_labels",
            ),
            Node(
                nodes.draw_masks,
                ["text2mask_splits", "text2mask_maps", "text2mask_masks", SETTINGS],
                "text2mask_figure4",
                name="draw_text2mask_figure4",
            ),
        ],
        tags=["text2mask", "pseudo_labels"],
    )


def segmenter() -> Pipeline:
    """DeepLabV2 on the pseudo masks, its labels of other images, and their mIoU."""
    return Pipeline(
        [
            Node(
                nodes.train,
                ["text2mask_splits", "text2mask_masks", "text2mask_models_folder", SETTINGS],
                ["text2mask_segmenter", "text2mask_training"],
                name="train_segmenter",
            ),
            Node(
                nodes.predict,
                [
                    "text2mask_splits",
                    "text2mask_segmenter",
                    "text2mask_predictions_folder",
                    SETTINGS,
                ],
                ["text2mask_predictions", "text2mask_predictions_report"],
                name="label_with_segmenter",
            ),
            Node(
                nodes.evaluate,
                ["text2mask_predictions_report", "text2mask_metrics", SETTINGS],
                "text2mask_segmenter_metrics",
                name="evaluate_segmenter",
            ),
        ],
        tags=["text2mask", "segmenter_train"],
    )


def tables() -> Pipeline:
    """All tables and figures that ``params:text2mask_tables`` asks for."""
    return Pipeline(
        [
            Node(
                run_text2mask_tables,
                {
                    "voc2012": "voc2012",
                    "coco2014": "coco2014",
                    "images": "text2mask_images",
                    "maps": "text2mask_maps_folder",
                    "masks": "text2mask_masks_folder",
                    "models": "text2mask_models_folder",
                    "diffusion": "text2mask_diffusion",
                    "text2mask": SETTINGS,
                    "tables": "params:text2mask_tables",
                },
                [
                    "text2mask_table_models",
                    "text2mask_tables",
                    "text2mask_tables_text",
                    "text2mask_figure_b8",
                    "text2mask_figure_d9",
                ],
                name="run_text2mask_tables",
            )
        ],
        tags=["text2mask", "text2mask_tables"],
    )
