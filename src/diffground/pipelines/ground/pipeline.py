"""One's own images ─► masks."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.ground import nodes


def create_pipeline() -> Pipeline:
    """Masks of one's own images, or of the first one of the benchmark."""
    node = Node(
        nodes.ground_images,
        {
            "coco": "coco",
            "diffusion": "stable_diffusion",
            "models": "png_models_folder",
            "findings": "png_doctor_folder",
            "panoptic": "panoptic_weights",
            "modules": "grounding_models_folder",
            "folder": "ground_folder",
            "png": "params:png",
            "config": "params:ground",
        },
        ["ground", "ground_report"],
        name="ground_images",
    )
    return Pipeline([node], tags=["ground"])
