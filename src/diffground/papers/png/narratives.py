"""Narratives as tensors: what the PNG model trains on and is evaluated with."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import Final

import numpy as np
import torch
import torch.nn.functional as F
from numpy.typing import NDArray
from torch import Tensor
from torch.nn.utils.rnn import pad_sequence
from torch.utils.data import Dataset

from diffground.data.png_annotations import CategoryMap
from diffground.data.png_benchmark import PngPhrase, PngSample, load_image, load_targets
from diffground.io.panoptic import read_panoptic
from diffground.papers.png.config import PngDataConfig
from diffground.papers.png.feature_store import FeatureStore, FrozenInputs

# Raised when the same files give other narratives, phrases, pixels or targets, here or in what
# reads them (samples, annotations, phrases).
CODE_VERSION: Final = 1

UNKNOWN = -1  # class index of a padded phrase


@dataclass(frozen=True)
class PngItem:
    """One narrative. ``N`` phrases in caption order."""

    sample: PngSample
    image: Tensor | None  # float32 (3, S, S) in [-1, 1]; None if features take its place
    targets: Tensor  # float32 (N, h, w) in [0, 1]: the share of each cell that is covered
    categories: Tensor  # int64 (N,), contiguous class index
    features: FrozenInputs | None = None  # what the frozen model made of image and caption


@dataclass(frozen=True)
class PngBatch:
    """Narratives side by side; phrases are padded to the longest ``K``."""

    ids: tuple[str, ...]
    captions: tuple[str, ...]
    spans: tuple[tuple[tuple[int, int], ...], ...]  # character spans of the real phrases
    images: Tensor | None  # (B, 3, S, S); None if features take their place
    targets: Tensor  # (B, K, h, w), 0 where padded
    categories: Tensor  # (B, K), UNKNOWN where padded
    features: FrozenInputs | None = None  # cached, in the precision that they are kept in

    def to(self, device: torch.device | str, non_blocking: bool = False) -> PngBatch:
        """The batch with its tensors on ``device``."""
        tensors = ("targets", "categories", "images", "features")
        there = {name: getattr(self, name) for name in tensors if getattr(self, name) is not None}
        moved = {name: held.to(device, non_blocking=non_blocking) for name, held in there.items()}
        return replace(self, **moved)

    def pin_memory(self) -> PngBatch:
        """The batch in memory that a GPU reads by itself; a loader asks for it."""
        tensors = ("targets", "categories", "images", "features")
        here = {name: getattr(self, name) for name in tensors if getattr(self, name) is not None}
        return replace(self, **{name: held.pin_memory() for name, held in here.items()})

    @property
    def mask_size(self) -> tuple[int, int]:
        """``(h, w)`` of the masks."""
        return self.targets.shape[-2], self.targets.shape[-1]


class PngDataset(Dataset[PngItem]):
    """Samples read from disk one at a time. A broken file raises :class:`InputError`.

    Broken files are found before training (:mod:`diffground.data.png_reading`), as a loader's
    workers could only stop the run. With a ``store`` no image is read but its cached features;
    :class:`InputError` if it has none.
    """

    def __init__(
        self,
        samples: Sequence[PngSample],
        categories: CategoryMap,
        config: PngDataConfig,
        store: FeatureStore | None = None,
    ) -> None:
        self.samples, self.categories, self.config = list(samples), categories, config
        self.store = store

    def __len__(self) -> int:
        return len(self.samples)

    def name(self, index: int) -> str:
        """The sample's id."""
        return self.samples[index].id

    def __getitem__(self, index: int) -> PngItem:
        sample, store, index_of = self.samples[index], self.store, self.categories.index
        size = self.config.image_size
        return PngItem(
            sample=sample,
            image=to_input(load_image(sample), size) if store is None else None,
            features=None if store is None else store.get(sample),
            targets=cover(load_targets(sample), self.config.mask_size),
            categories=torch.tensor([index_of(c) for c in phrase_categories(sample)]),
        )


def to_input(image: NDArray[np.uint8], size: int) -> Tensor:
    """An RGB image as the VAE takes it: float32 (3, size, size) in [-1, 1].

    Squeezed to the square (bilinear, low-passed), as the paper does; kept if it is that size.
    """
    pixels = torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float()
    if pixels.shape[-2:] != (size, size):
        pixels = F.interpolate(pixels[None], size=(size, size), mode="bilinear", antialias=True)[
            0
        ].clamp(0, 255)
    return pixels / 127.5 - 1.0


def cover(masks: NDArray[np.bool_], size: tuple[int, int]) -> Tensor:
    """The share of each of ``size`` cells that masks (N, H, W) cover: float32 (N, h, w)."""
    return F.adaptive_avg_pool2d(torch.from_numpy(masks).float()[None], size)[0]


def phrase_categories(sample: PngSample) -> list[int]:
    """The COCO category of each phrase, ``c*`` of equation 12.

    A plural phrase may span categories, which the paper does not speak of: the one with the most
    pixels counts, the first listed among equals.
    """
    areas: dict[int, int] = {}
    if any(len(set(phrase.category_ids)) > 1 for phrase in sample.phrases):
        ids, counts = np.unique(read_panoptic(sample.panoptic_path), return_counts=True)
        areas = dict(zip(ids.tolist(), counts.tolist(), strict=True))
    return [_largest(phrase, areas) for phrase in sample.phrases]


def _largest(phrase: PngPhrase, areas: dict[int, int]) -> int:
    totals = dict.fromkeys(phrase.category_ids, 0)
    for segment, category in zip(phrase.segment_ids, phrase.category_ids, strict=True):
        totals[category] += areas.get(segment, 0)
    return max(totals, key=lambda category: totals[category])


def collate(items: Sequence[PngItem]) -> PngBatch:
    """Pads the phrases of several narratives to the longest."""
    images = [item.image for item in items if item.image is not None]
    features = [item.features for item in items if item.features is not None]
    assert len(items) in (len(images), len(features)), "a batch is read with a store, or without"
    return PngBatch(
        ids=tuple(item.sample.id for item in items),
        captions=tuple(item.sample.caption for item in items),
        spans=tuple(item.sample.spans for item in items),
        images=torch.stack(images) if images else None,
        targets=pad_sequence([item.targets for item in items], True),
        categories=pad_sequence([item.categories for item in items], True, UNKNOWN),
        features=_side_by_side(features) if features else None,
    )


def _side_by_side(features: Sequence[FrozenInputs]) -> FrozenInputs:
    pooled = [item.pooled for item in features if item.pooled is not None]
    return FrozenInputs(
        latents=torch.stack([item.latents for item in features]),
        context=pad_sequence([item.context for item in features], True),
        valid=pad_sequence([item.valid for item in features], True),
        pooled=torch.stack(pooled) if pooled else None,
    )
