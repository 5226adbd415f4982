"""Measures a trained or zero-shot PNG model on the validation split (Average Recall)."""

from diffground.pipelines.png_eval.pipeline import create_pipeline

__all__ = ["create_pipeline"]
