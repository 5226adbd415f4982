"""Personal objects (002, §5.3): tokens of items, answers of a method, their scores, the tables."""

from diffground.pipelines.personalized.pipeline import create_pipeline

__all__ = ["create_pipeline"]
