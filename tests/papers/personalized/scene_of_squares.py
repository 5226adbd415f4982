"""A hand-made scene: two squares on grey, and pictures of one of them; whose segments are known."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffground.papers.personalized.queries import Query

RED, BLUE, GREY = (206, 44, 40), (46, 84, 204), (128, 128, 128)
MASKS = np.zeros((2, 64, 112), bool)
MASKS[0, 16:48, 8:40] = True
MASKS[1, 16:48, 64:96] = True


def scene() -> NDArray[np.uint8]:
    """A red square at the left, a blue one at the right, uint8 (64, 112, 3)."""
    image = np.full((64, 112, 3), GREY, np.uint8)
    image[MASKS[0]], image[MASKS[1]] = RED, BLUE
    return image


def pictures(folder: Path, colour: tuple[int, int, int]) -> tuple[Path, ...]:
    """Two pictures of a square of that colour."""
    paths = []
    for number in (0, 1):
        image = np.full((64, 64, 3), GREY, np.uint8)
        image[12 + 8 * number : 52, 12:52] = colour
        path = folder / f"{colour[0]}-{number}.png"
        Image.fromarray(image).save(path)
        paths.append(path)
    return tuple(paths)


def query(
    item: str, references: tuple[Path, ...], context: str = "a mug filled with cola"
) -> Query:
    return Query(item, "<new1>", "mug", context, references)


class Squares:
    """A method that sees the squares, and remembers what it was asked."""

    def __init__(self) -> None:
        self.asked: list[Query] = []

    def segments(
        self, image: NDArray[np.uint8], queries: Sequence[Query], *, item: str, seed: int
    ) -> NDArray[np.bool_]:
        return MASKS

    def relevance(
        self,
        image: NDArray[np.uint8],
        segments: NDArray[np.bool_],
        queries: Sequence[Query],
        *,
        item: str,
        seed: int,
    ) -> NDArray[np.float64]:
        self.asked += queries
        return np.full((len(queries), len(segments)), float(len(self.asked)))
