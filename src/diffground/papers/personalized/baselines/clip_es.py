"""CLIP-ES, the localisation that Table B.9 sets beside SelfCross (Lin et al., CVPR 2023).

Grad-CAM on the last layer of CLIP's image encoder, of the probability that a sentence has among
background words; then spread along the attention of the last layers, inside of
boxes around what Grad-CAM found. The numbers are those of the public code.

``K`` sentences · ``T`` sentences and background words · ``N`` patches = h·w · ``C`` channels
"""

from __future__ import annotations

import re
from collections.abc import Callable, Sequence
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor

from diffground.attention.official import box_mask
from diffground.attention.selfcross import minmax
from diffground.backbone.contrastive import Contrastive, unit
from diffground.papers.personalized.baselines.config import ClipEsConfig
from diffground.papers.personalized.methods import Method
from diffground.papers.personalized.queries import Query
from diffground.segmenters.pooling import pooled

# Raised when the same picture and sentences give other maps.
CODE_VERSION: Final = 1

BALANCINGS: Final = 3  # of the affinity's columns and rows, in the public code

Words = Callable[[Query], Tensor]  # a query's personal word in CLIP's vocabulary, (C,)


class ClipEs:
    """A :class:`~.methods.Method`: CLIP-ES in another's segments.

    In the public code the classes of an image compete too. Here each query stands against the
    background alone: all are of one class, and whatever else happens to be asked of a picture would
    change the answer. A map may be all zeros, which the paper saw too; then no segment is more
    relevant than another.
    """

    def __init__(
        self, clip: Contrastive, words: Words, regions: Method, config: ClipEsConfig
    ) -> None:
        self.clip, self.words, self.regions, self.config = clip, words, regions, config

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
        """The mean of each query's map in each segment."""
        sentences = torch.cat([self._sentence(query) for query in queries])
        maps = localise(self.clip, image, sentences, self.config)
        return pooled(maps, segments).T.double().numpy()

    def _sentence(self, query: Query) -> Tensor:
        """A query's description in the public code's template, in CLIP's space, (1, P)."""
        # The template has an article: "a clean origami <new1> mug filled with cola."
        phrase = re.sub(r"^an?\s+", "", query.description)
        text = self.config.template.format(phrase)
        return self.clip.texts([text], {query.token: self.words(query)})


def localise(
    clip: Contrastive, image: NDArray[np.uint8], sentences: Tensor, config: ClipEsConfig
) -> Tensor:
    """Where sentences (K, P) are in an image, uint8 RGB (H, W, 3): float (K, h, w) in [0, 1]."""
    rest = clip.texts([config.template.format(word) for word in config.background])
    texts = unit(torch.cat([sentences.detach(), rest]))
    activations, logits, affinity, size = _seen(clip, image, texts, config)
    asked, background = logits[: len(sentences)], logits[len(sentences) :]
    chances = [torch.cat([one[None], background]).softmax(-1)[0] for one in asked]
    cams = torch.stack([_grad_cam(activations, each).unflatten(0, size) for each in chances])
    cams = minmax(cams)
    return minmax(refined(cams, affinity, config.box_threshold)).cpu()


def refined(cams: Tensor, affinity: Tensor, box_threshold: float) -> Tensor:
    """Maps (K, h, w), spread along an ``affinity`` (N, N) from where the boxes of each are.

    The affinity is made doubly stochastic by turns (Sinkhorn), symmetric, and squared.
    """
    transition = affinity
    for _ in range(BALANCINGS):
        transition = transition / transition.sum(0, keepdim=True)
        transition = transition / transition.sum(1, keepdim=True)
    transition = (transition + transition.T) / 2
    transition = transition @ transition
    boxes = box_mask(cams, box_threshold).to(cams)
    return ((cams * boxes).flatten(1) @ transition.T).view_as(cams)


def _grad_cam(activations: Tensor, probability: Tensor) -> Tensor:
    """What of the activations (1, 1 + N, C) speaks for ``probability``: (N,), none below 0."""
    gradient = torch.autograd.grad(probability, activations, retain_graph=True)[0][0, 1:]
    return (activations.detach()[0, 1:] @ gradient.mean(0)).relu()


def _seen(
    clip: Contrastive, image: NDArray[np.uint8], texts: Tensor, config: ClipEsConfig
) -> tuple[Tensor, Tensor, Tensor, tuple[int, int]]:
    """One pass of the image encoder.

    Returns the last layer's normed input (1, 1 + N, C), the logits (T,) of the texts, which depend
    on it, the affinity (N, N), the mean attention of the last layers, and (h, w).
    """
    pixels, size = _pixels(clip, image, config.short_side)
    vision: Any = clip.model.vision_model
    layers = list(vision.encoder.layers)
    last: list[Tensor] = []
    maps: list[Tensor] = []

    def cut(module: Any, inputs: Any, output: Tensor) -> Tensor:
        last.append(output.detach().requires_grad_())  # nothing before it is differentiated
        return last[0]

    def keep(module: Any, inputs: Any, output: tuple[Tensor, Tensor]) -> None:
        maps.append(output[1].detach()[0, :, 1:, 1:].mean(0))

    hooks = [layers[-1].layer_norm1.register_forward_hook(cut)]
    hooks += [one.self_attn.register_forward_hook(keep) for one in layers[-config.layers :]]
    try:
        with torch.enable_grad():
            output = vision(pixels, interpolate_pos_encoding=True)
            # All patches' mean in place of the class token, which only looks at some.
            states = vision.post_layernorm(output.last_hidden_state)[:, 1:].mean(1)
            features = unit(cast(Any, clip.model).visual_projection(states))[0]
            scale = clip.model.logit_scale.exp()
            logits = scale * texts @ features
    finally:
        for hook in hooks:
            hook.remove()
    return last[0], logits, torch.stack(maps).mean(0), size


def _pixels(
    clip: Contrastive, image: NDArray[np.uint8], short_side: int | None
) -> tuple[Tensor, tuple[int, int]]:
    """(1, 3, h * patch, w * patch), normalised, and (h, w): sides are rounded up."""
    patch = int(clip.model.config.vision_config.patch_size)
    scale = 1.0 if short_side is None else short_side / min(image.shape[:2])
    height, width = (max(1, -(-round(side * scale) // patch)) for side in image.shape[:2])
    resized = Image.fromarray(image).resize(
        (width * patch, height * patch), Image.Resampling.BICUBIC
    )
    pixels = torch.from_numpy(np.array(resized)).float() / 255
    mean, std = (torch.tensor(getattr(clip.processor, f"image_{n}")) for n in ("mean", "std"))
    normalised = ((pixels - mean) / std).permute(2, 0, 1)[None]
    return normalised.to(clip.device, clip.model.dtype), (height, width)
