"""One's own images, by any of the four methods."""

from diffground.pipelines.ground.pipeline import create_pipeline

__all__ = ["create_pipeline"]
