"""Judges the mini models on held-out scenes."""

from diffground.pipelines.foundation_eval.pipeline import create_pipeline

__all__ = ["create_pipeline"]
