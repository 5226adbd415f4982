"""Tables 1 to 6 and B.8, and Figures B.8 and D.9, of From Text to Mask (002)."""

from diffground.pipelines.text2mask_tables.pipeline import create_pipeline

__all__ = ["create_pipeline"]
