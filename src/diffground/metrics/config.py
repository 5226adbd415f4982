"""The choices that metrics leave to the settings."""

from __future__ import annotations

from typing import Literal

#: Which segment is which instance: see :func:`diffground.metrics.assignment.match_centres`.
Matching = Literal["distance", "order"]
