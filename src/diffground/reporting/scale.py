"""What stands on every figure and table: whose numbers or pictures these are."""

from __future__ import annotations

from typing import Literal

Scale = Literal["mini", "paper"]

SCALE_WORDS: dict[Scale, str] = {"mini": "mini world", "paper": "the paper's scale"}
