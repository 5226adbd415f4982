"""Grounded generation (003, 004): prompts, synthetic samples with masks, their scores."""

from diffground.pipelines.grounded.pipeline import create_pipeline

__all__ = ["create_pipeline"]
