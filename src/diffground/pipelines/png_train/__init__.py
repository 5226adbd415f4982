"""Trains EIPA for panoptic narrative grounding and measures it (Li et al., section 3)."""

from diffground.pipelines.png_train.pipeline import create_pipeline

__all__ = ["create_pipeline"]
