"""Which part of a data set is read."""

from __future__ import annotations

from typing import Annotated

from pydantic import AfterValidator, PositiveInt

from diffground.config import Config
from diffground.data.png_annotations import Layout

#: Names of COCO categories, a set: their order means nothing.
Nouns = Annotated[tuple[str, ...], AfterValidator(lambda names: tuple(sorted(set(names))))]


class PngSplits(Config):
    """Which narratives are read. PNG has no test split: validation is what papers report."""

    train: str
    val: str
    layout: Layout
    train_limit: PositiveInt | None  # narratives, in file order
    # Categories that a model must not be trained to ground: training narratives with a phrase of
    # one are left out, and Average Recall of such phrases stands beside that of all others.
    held_out: Nouns
    deep_check: bool  # opens every training file once, and skips the broken ones
