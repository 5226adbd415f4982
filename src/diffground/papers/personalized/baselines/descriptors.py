"""The row DINO-ViT of Tables 7 and B.10: which segment has the item's patches (002, §5.3).

Patches are described as Amir et al. do [61], by the keys of a self-supervised vision transformer;
in an item's pictures those patches are its own on which the network's attention rests. The paper
does not say what it took for segments, nor how descriptors were compared: the segments are those of
another row, and a segment's relevance is the mean, over its patches, of the largest cosine with any
of the item's. Words are not read.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import lru_cache
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffground.io.images import read_image
from diffground.papers.personalized.baselines.config import DescriptorsConfig
from diffground.papers.personalized.methods import Method
from diffground.papers.personalized.queries import Query
from diffground.segmenters.pooling import pooled
from diffground.segmenters.vit import VitDescriptors, similarity

# Raised when the same pictures give other relevances, here or in segmenters/vit.
CODE_VERSION: Final = 1


class DenseDescriptors:
    """A :class:`~.methods.Method`: descriptors in another's segments."""

    def __init__(self, vit: VitDescriptors, regions: Method, config: DescriptorsConfig) -> None:
        self.vit, self.regions, self.config = vit, regions, config
        self._item = lru_cache(maxsize=None)(self._described)

    def segments(
        self, image: NDArray[np.uint8], queries: Sequence[Query], *, item: str, seed: int
    ) -> NDArray[np.bool_]:
        """Those of ``regions``."""
        return self.regions.segments(image, queries, item=item, seed=seed)

    def relevance(
        self,
        image: NDArray[np.uint8],
        segments: NDArray[np.bool_],
        queries: Sequence[Query],
        *,
        item: str,
        seed: int,
    ) -> NDArray[np.float64]:
        """How near a segment's patches come to the item's, in the mean: cosines."""
        keys = self.vit(image, short_side=self.config.short_side, layer=self.config.layer).keys
        patches = keys.flatten(1).T
        rows = [
            pooled(similarity(patches, self._item(q.pictures())).view(1, *keys.shape[1:]), segments)
            for q in queries
        ]
        return torch.stack(rows)[..., 0].double().numpy()

    def _described(self, references: tuple[Path, ...]) -> Tensor:
        """The descriptors (M, C) of the patches that an item's pictures are about."""
        found = []
        for path in references:
            described = self.vit(
                read_image(path), short_side=self.config.short_side, layer=self.config.layer
            )
            # No picture is without one: where all patches are alike, they are all meant.
            least = min(self.config.saliency, float(described.saliency.max()))
            found.append(described.keys[:, described.saliency >= least].T)
        return torch.cat(found)
