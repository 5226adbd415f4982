"""coco ─► doctor ─► training ─► evaluation (the nodes of ``png_eval``)."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.png_eval.pipeline import evaluation, location
from diffground.pipelines.png_train.nodes import examine_training_data, train_png


def create_pipeline() -> Pipeline:
    """Training, then evaluation of what was trained."""
    training = Pipeline(
        [
            Node(
                train_png,
                ["png_folders", "stable_diffusion", "png_doctor", "params:png"],
                ["png_model", "png_training"],
                name="train_png",
            ),
        ],
        tags=["png", "png_train"],
    )
    return location() + examination() + training + evaluation(after_training=True)


def examination() -> Pipeline:
    """The data doctor on the training split: whatever trains on it begins with this."""
    return Pipeline(
        [
            Node(
                examine_training_data,
                ["coco", "png_models", "params:png"],
                ["png_doctor", "png_doctor_text"],
                name="examine_png_data",
            )
        ],
        tags=["png", "png_train"],
    )
