"""Attention maps of a dataset's classes, from one truncated pass of the frozen model each."""

from diffground.pipelines.attention_aggregation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
