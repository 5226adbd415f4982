"""coco ─► doctor, feature cache ─► trainings and evaluations ─► tables ─► figures."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.png_eval.pipeline import location
from diffground.pipelines.png_tables.nodes import draw_components, draw_narratives, run_png_tables
from diffground.pipelines.png_train.pipeline import examination


def create_pipeline() -> Pipeline:
    """The ablations of Tables 2 to 4, and the figures drawn from them."""
    settings = ["params:png", "params:png_tables"]
    tables = Pipeline(
        [
            Node(
                run_png_tables,
                [
                    "png_folders",
                    "stable_diffusion",
                    "png_doctor",
                    "png_features_report",
                    *settings,
                ],
                ["png_tables", "png_tables_text"],
                name="run_png_tables",
            ),
            Node(
                draw_components,
                ["png_folders", "stable_diffusion", "png_tables", *settings],
                "png_figure4",
                name="draw_png_figure4",
            ),
            Node(
                draw_narratives,
                ["png_folders", "stable_diffusion", "png_tables", *settings],
                ["png_figure5", "png_figure6"],
                name="draw_png_figures5_6",
            ),
        ],
        tags=["png", "png_tables"],
    )
    return location() + examination() + tables
