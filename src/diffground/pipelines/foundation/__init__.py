"""Trains the shipped mini models, whose weights are in the repository, and judges them."""

from diffground.pipelines.foundation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
