"""Pairs of images and masks, and a network trained on them, for all modules."""

from test_semantic import pairs, trained

__all__ = ["pairs", "trained"]
