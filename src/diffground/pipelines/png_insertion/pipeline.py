"""coco ─► doctor ─► trainings and evaluations ─► table."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.png_insertion.nodes import run_insertion_ablation
from diffground.pipelines.png_train.pipeline import examination


def create_pipeline() -> Pipeline:
    """The ablation of Table 3."""
    ablation = Pipeline(
        [
            Node(
                run_insertion_ablation,
                [
                    "coco",
                    "stable_diffusion",
                    "png_models",
                    "png_doctor",
                    "params:png",
                    "params:png_insertion",
                ],
                "png_insertion_tables",
                name="run_png_insertion",
            ),
        ]
    )
    return examination() + ablation
