"""Trains the shipped mini models. Maintainers only: their weights are in the repository."""

from diffground.pipelines.foundation.pipeline import create_pipeline

__all__ = ["create_pipeline"]
