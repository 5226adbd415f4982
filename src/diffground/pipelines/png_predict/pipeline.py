"""trained model + image + narrative ─► overlay, masks."""

from __future__ import annotations

from kedro.pipeline import Node, Pipeline

from diffground.pipelines.png_eval.pipeline import location
from diffground.pipelines.png_predict.nodes import predict_png


def create_pipeline() -> Pipeline:
    """Prediction with what lies on disk."""
    inputs = ["png_folders", "stable_diffusion", "params:png", "params:png_predict"]
    node = Node(predict_png, [*inputs, "png_predict_folder"], "png_predict", name="predict_png")
    return location() + Pipeline([node], tags=["png", "png_predict"])
