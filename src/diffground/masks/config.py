"""How a self-attention map is divided into segments."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from diffground.config import Config


class SpectralConfig(Config):
    """How an area is divided. The paper gives none of these values."""

    # "eigengap": behind which the eigenvalues leap most, 1 to `most`. "asked": as many as objects
    # are asked for, which uses what a user may not know: how many there are. Or a number.
    segments: Literal["eigengap", "asked"] | PositiveInt = "eigengap"
    most: PositiveInt = 8
    eigenvectors: PositiveInt | None = None  # that embed a pixel; None: as many as segments
    power: PositiveFloat = 1.0  # of the weights: more than 1 makes the near nearer
    # Weights are multiplied by exp(-(d / proximity)²), as Shi and Malik do for pictures; d is the
    # distance in heights of the grid. None: the attention alone decides.
    proximity: PositiveFloat | None = None
    components: bool = False  # each connected part of a segment becomes one
    # Segments of a smaller share of the area are none, and their pixels are nobody's.
    least: float = Field(default=0.02, ge=0, lt=1)
