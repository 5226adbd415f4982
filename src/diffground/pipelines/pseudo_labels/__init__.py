"""Pseudo masks from attention maps: dense CRF, label files, mIoU (Text2Mask, 002, §5.1)."""

from diffground.pipelines.pseudo_labels.pipeline import create_pipeline

__all__ = ["create_pipeline"]
