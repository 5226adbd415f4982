"""Grounds one's own images with one's own narratives."""

from diffground.pipelines.png_predict.pipeline import create_pipeline

__all__ = ["create_pipeline"]
