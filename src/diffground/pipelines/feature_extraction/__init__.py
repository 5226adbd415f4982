"""Caches what is frozen in PNG: latents and phrase embeddings (Li et al., section 3.1)."""

from diffground.pipelines.feature_extraction.pipeline import create_pipeline

__all__ = ["create_pipeline"]
