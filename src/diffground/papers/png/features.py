"""What the frozen model makes of a narrative, computed once: latents and phrase embeddings.

Neither changes in training (Li et al., section 3.1: image encoder and text encoder are frozen), so
they are extracted once into files (:mod:`diffground.papers.png.feature_extraction`) and read by
every training and evaluation (:mod:`diffground.papers.png.feature_store`). Features are rounded to
``precision`` whether they come from the files or are made on the way, so the cache changes nothing.
Rounding to float16 moves a value by at most 4.9e-4 of itself (2^-11). What is left is the order of
float sums: features that were made in batches of another size differ by some 1e-6, which may turn a
rounding by one last digit.
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Final

import torch
from torch import Tensor

from diffground.backbone import frozen
from diffground.backbone.captions import LongCaptions, Span, encode_captions, lost_phrases
from diffground.backbone.frozen import FrozenDiffusion
from diffground.data.png_reading import Narratives, data_fingerprint
from diffground.errors import InputError
from diffground.papers.png import narratives as png_data
from diffground.papers.png.config import PngConfig, Precision
from diffground.papers.png.feature_store import DTYPES, FeatureKey, FrozenInputs
from diffground.papers.png.narratives import PngBatch
from diffground.provenance import code_of

# Raised when the same narratives give other features: cached ones are then made again.
CODE_VERSION: Final = 1


def frozen_inputs(
    backbone: FrozenDiffusion, batch: PngBatch, long_captions: LongCaptions, precision: Precision
) -> FrozenInputs:
    """Clean latents and phrase embeddings of a batch, in the backbone's dtype and on its device.

    The batch's cached features if it has some, else computed, in the backbone's own precision also
    where a training runs under autocast. Rounded to ``precision`` either way.

    Raises:
        InputError: the cached features are kept in another precision, or a caption is refused.
    """
    if batch.features is None:
        assert batch.images is not None, "a batch has images or features"
        latents = encode_images(backbone, batch.images, precision)
        context, valid, pooled = encode_narratives(
            backbone, batch.captions, batch.spans, long_captions, precision
        )
        found = FrozenInputs(latents, context, valid, pooled)
    else:
        found = batch.features
        if found.latents.dtype != DTYPES[precision]:
            reason = f"cached in {found.latents.dtype}, but frozen_precision is {precision}"
            raise InputError("batch", "features", reason)
    return found.to(backbone.device, backbone.dtype)


def count_phrases(backbone: FrozenDiffusion, batch: PngBatch, long_captions: LongCaptions) -> int:
    """The real phrases of a batch, those that a truncated caption lost left out."""
    if batch.features is not None:
        return int(batch.features.valid.sum())
    return sum(
        len(spans) - len(lost_phrases(backbone, caption, spans, long_captions))
        for caption, spans in zip(batch.captions, batch.spans, strict=True)
    )


@torch.no_grad()
def encode_images(backbone: FrozenDiffusion, images: Tensor, precision: Precision) -> Tensor:
    """Scaled posterior means (B, 4, h, w) of images (B, 3, S, S) in [-1, 1]."""
    with torch.autocast(backbone.device.type, enabled=False):
        return backbone.encode_images(images.to(backbone.dtype)).to(DTYPES[precision])


@torch.no_grad()
def encode_narratives(
    backbone: FrozenDiffusion,
    captions: Sequence[str],
    spans: Sequence[Sequence[Span]],
    long_captions: LongCaptions,
    precision: Precision,
) -> tuple[Tensor, Tensor, Tensor | None]:
    """:func:`encode_captions`, rounded."""
    with torch.autocast(backbone.device.type, enabled=False):
        context, valid, pooled = encode_captions(backbone, captions, spans, long_captions)
    kept = DTYPES[precision]
    return context.to(kept), valid, None if pooled is None else pooled.to(kept)


def feature_key(config: PngConfig, read: Narratives, backbone: FrozenDiffusion) -> FeatureKey:
    """What decides the features of a split as it was read."""
    return FeatureKey(
        code=code_of(frozen, png_data) | {"features": CODE_VERSION},
        backbone=backbone.fingerprint(),
        backbone_precision=str(backbone.dtype).removeprefix("torch."),
        coco=data_fingerprint(read.coco),
        split=read.split,
        image_size=config.data.image_size,
        max_phrases=read.max_phrases,
        long_captions=config.model.long_captions,
        precision=config.model.frozen_precision,
    )
