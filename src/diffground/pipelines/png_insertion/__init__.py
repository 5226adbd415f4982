"""Table 3 of Li et al.: where EIPA sits in the UNet."""

from diffground.pipelines.png_insertion.pipeline import create_pipeline

__all__ = ["create_pipeline"]
