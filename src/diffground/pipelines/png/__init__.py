"""Dynamic Prompting (000): EIPA trained for panoptic narrative grounding, measured, and used."""

from diffground.pipelines.png.pipeline import create_pipeline

__all__ = ["create_pipeline"]
