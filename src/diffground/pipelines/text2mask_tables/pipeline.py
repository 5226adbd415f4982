"""datasets ─► maps, masks, segmenters of every row ─► tables ─► figures."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.attention_aggregation.pipeline import location
from diffground.pipelines.text2mask_tables.nodes import run_text2mask_tables


def create_pipeline() -> Pipeline:
    """All tables and figures that ``params:text2mask_tables`` asks for."""
    tables = Pipeline(
        [
            Node(
                run_text2mask_tables,
                [
                    "text2mask_folders",
                    "text2mask_diffusion",
                    "params:text2mask",
                    "params:text2mask_tables",
                ],
                [
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
    return location(coco=True) + tables
