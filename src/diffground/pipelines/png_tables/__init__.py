"""Tables 2 to 4 and Figures 4 to 6 of Li et al."""

from diffground.pipelines.png_tables.pipeline import create_pipeline

__all__ = ["create_pipeline"]
