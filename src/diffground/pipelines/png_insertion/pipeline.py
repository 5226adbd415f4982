"""coco ─► doctor ─► trainings and evaluations ─► table."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.png_insertion.nodes import run_insertion_ablation
from diffground.pipelines.png_train.nodes import examine_training_data


def create_pipeline() -> Pipeline:
    """The ablation of Table 3."""
    return Pipeline(
        [
            Node(
                examine_training_data,
                ["coco", "png_models", "params:png"],
                ["png_doctor", "png_doctor_text"],
                name="examine_png_data",
            ),
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
