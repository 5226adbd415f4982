"""Renders the mini datasets, or looks whether somebody's own are there."""

from diffground.pipelines.world.pipeline import DATASETS, create_pipeline

__all__ = ["DATASETS", "create_pipeline"]
