"""The row Mask R-CNN of Tables 7 and B.10, with a Mask2Former: which instance looks like the item.

The detector gives the segments, which is why the paper finds its mIoU high; their features are
compared with those of the item in its pictures (002, §5.3). Words are not read, but for the class.

``N`` instances · ``C`` channels
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor
from torch.nn import functional

from diffground.io.images import read_image
from diffground.papers.personalized.baselines.config import DetectorConfig
from diffground.papers.personalized.queries import Query
from diffground.segmenters.instance import InstanceSegmenter
from diffground.segmenters.pooling import pooled

# Raised when the same pictures give other segments or relevances.
CODE_VERSION: Final = 1

log = logging.getLogger(__name__)


class DetectorFeatures:
    """A :class:`~.methods.Method`: a detector's instances, and their features.

    An item that the detector finds in none of its pictures is like nothing: its relevance is 0
    everywhere, and the log says so.
    """

    def __init__(self, segmenter: InstanceSegmenter, config: DetectorConfig) -> None:
        self.segmenter, self.config = segmenter, config
        self._item = lru_cache(maxsize=None)(self._described)

    def segments(
        self, image: NDArray[np.uint8], queries: Sequence[Query], *, item: str, seed: int
    ) -> NDArray[np.bool_]:
        """The instances of the class, surest first; of pixels in two the surer one keeps them."""
        found = self._instances(image, queries[0].word)
        taken = np.zeros(image.shape[:2], bool)
        alone = []
        for mask in found:
            alone.append(mask & ~taken)
            taken |= mask
        return np.array([mask for mask in alone if mask.any()], bool).reshape(-1, *taken.shape)

    def relevance(
        self,
        image: NDArray[np.uint8],
        segments: NDArray[np.bool_],
        queries: Sequence[Query],
        *,
        item: str,
        seed: int,
    ) -> NDArray[np.float64]:
        """Cosine of a segment's feature and the item's, the mean of its pictures."""
        table = np.zeros((len(queries), len(segments)))
        if not len(segments):
            return table
        features = self.features(image, segments)
        for row, query in zip(table, queries, strict=True):
            known = self._item(query.pictures(), query.word)
            if known is not None:
                row[:] = (features @ known).double().numpy()
        return table

    @torch.no_grad()
    def features(self, image: NDArray[np.uint8], masks: NDArray[np.bool_]) -> Tensor:
        """What the detector's backbone says of each mask (N, H, W): (N, C) of length 1.

        The mean over the mask in each level of its pyramid, each of length 1, side by side. Mask
        R-CNN pools its instances from the same levels. A Mask2Former's pixel decoder, which comes
        behind them, tells instances from what is around them but hardly from one another: with
        true masks of the mini world it finds the item no oftener than chance.
        """
        inputs: Any = self.segmenter.processor(images=[image], return_tensors="pt")
        network: Any = self.segmenter.model.model.pixel_level_module.encoder
        levels = network(inputs["pixel_values"].to(self.segmenter.model.device)).feature_maps
        parts = [functional.normalize(pooled(level[0].cpu(), masks), dim=-1) for level in levels]
        return functional.normalize(torch.cat(parts, dim=-1), dim=-1)

    def _described(self, references: tuple[Path, ...], word: str) -> Tensor | None:
        """The item's feature (C,), the mean of the pictures in which it is found; None of none."""
        features = []
        for path in references:
            image = read_image(path)
            found = self._instances(image, word)[:1]
            if len(found):
                features.append(self.features(image, found)[0])
        if not features:
            log.warning("the detector finds no %s in %s", word, ", ".join(map(str, references)))
            return None
        return functional.normalize(torch.stack(features).mean(0), dim=-1)

    def _instances(self, image: NDArray[np.uint8], word: str) -> NDArray[np.bool_]:
        """The masks (N, H, W) of what the detector calls a class word, by falling score."""
        names = self.config.names.get(word, (word,))
        found = self.segmenter([image], threshold=self.config.threshold)[0]
        return found.masks[[label in names for label in found.labels]]
