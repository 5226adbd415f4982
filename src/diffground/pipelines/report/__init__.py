"""Every table and figure of the papers on one page, as far as they were measured."""

from diffground.pipelines.report.pipeline import create_pipeline

__all__ = ["create_pipeline"]
