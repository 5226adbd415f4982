"""Panoptic narrative grounding with dynamically prompted frozen diffusion models."""
