"""Renders the mini datasets, or looks whether somebody's own are there."""

from diffground.pipelines.world.pipeline import create_pipeline

__all__ = ["create_pipeline"]
