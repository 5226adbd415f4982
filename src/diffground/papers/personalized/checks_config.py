"""How learned tokens are looked over: ``params:personalized_checks``."""

from __future__ import annotations

from pydantic import Field, PositiveInt

from diffground.config import Config


class TokenChecksConfig(Config):
    """Which items are looked over, and how far."""

    items: PositiveInt  # spread evenly over those that were learned
    images: PositiveInt  # of VOC's validation split, on which other classes are looked for
    pictures: PositiveInt  # photos of an item, and pictures that are drawn of its token
    steps: PositiveInt  # of a drawn picture
    guidance: float = Field(ge=1)
