"""A control: masks of other samples, whatever their class."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffground.papers.grounded.samples import Sample, Samples
from diffground.seeds import derive_seed

# Raised when the same seed draws other masks.
CODE_VERSION: Final = 1


@dataclass(frozen=True, eq=False)
class Chance:
    """For every name a mask drawn from ``pool``: right in size and place, and nothing else.

    Attributes:
        pool: samples with pictures of one size; at least one.
    """

    pool: Samples
    seed: int
    threshold: float = 0.5

    def scores(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """0 and 1, (N, H, W) of each sample, drawn by the seed, the sample and the name."""
        return [np.stack([self._mask(one, name) for name in one.names]) for one in samples]

    def _mask(self, one: Sample, name: str) -> NDArray[np.float32]:
        draw = np.random.default_rng(derive_seed(self.seed, one.id, f"chance {name}"))
        other = self.pool[int(draw.integers(len(self.pool)))]
        drawn: NDArray[np.float32] = other.masks[draw.integers(len(other.masks))].astype(np.float32)
        return drawn
