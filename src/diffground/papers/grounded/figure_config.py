"""What Figure 1 shows."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field

from diffground.config import Config


class FigurePrompt(Config):
    """A row of the figure: a prompt, and which of its words are asked for."""

    prompt: str = Field(min_length=1)
    classes: Annotated[tuple[str, ...], Field(min_length=1)]


class GroundingFigureConfig(Config):
    """Pictures with masks like Figure 1 of 003 and 004: ``params:grounding_figure``."""

    scale: Literal["mini", "paper"]  # said above the pictures
    rows: Annotated[tuple[FigurePrompt, ...], Field(min_length=1)]
    seed: int  # of the noise, with the row's number
