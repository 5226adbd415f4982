"""Segmenters that are not diffusion models."""
