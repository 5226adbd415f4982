"""Which part of a data set is read."""

from __future__ import annotations

from pydantic import PositiveInt

from diffground.config import Config
from diffground.data.png_annotations import Layout


class PngSplits(Config):
    """Which narratives are read. PNG has no test split: validation is what papers report."""

    train: str
    val: str
    layout: Layout
    train_limit: PositiveInt | None  # narratives, in file order
    deep_check: bool  # opens every training file once, and skips the broken ones
