"""Segmenters that are no diffusion models: DeepLabV2, and the instance segmenter off the shelf."""
