"""From Text to Mask (002): attention maps, pseudo masks, DeepLabV2 on them, and the tables."""

from diffground.pipelines.text2mask.pipeline import create_pipeline

__all__ = ["create_pipeline"]
