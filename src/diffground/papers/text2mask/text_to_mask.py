"""Three lines from an image to masks, without training (From Text to Mask, 002, §3).

segmenter = TextToMask.from_pretrained("data/06_models/mini-sd")
result = segmenter(image, ["cat", "sofa"])
result.overlay().save("overlay.png")

``K`` classes asked for · ``H, W`` pixels of the image
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from diffground.attention.aggregate import ClassMaps, class_maps, image_scores, initial_labels
from diffground.attention.queries import Prompt, compose
from diffground.backbone.frozen import FrozenDiffusion
from diffground.config import Compat
from diffground.data.vocabulary import Vocabulary
from diffground.io.images import ImageSource, read_image
from diffground.masks.crf import dense_crf
from diffground.masks.phrase_masks import PhraseMasks
from diffground.masks.uncertainty import uncertain
from diffground.papers.text2mask.config import TextToMaskConfig

log = logging.getLogger(__name__)


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class TextMasks(PhraseMasks):
    """What was found in one image. Every class gets a mask, so see ``scores`` and ``doubtful``.

    ``scores`` are the classes' presence, >= 0: how much of each there is; None where not known.
    Masks do not overlap: ``labels`` are the same. With a CRF they are ``posterior.argmax(0)``.
    Without one they are the initial labels of ``compat``: ``paper`` decides pixel by pixel and has
    ``attention.argmax(0)``; ``official`` decides on the attention's grid and enlarges the labels by
    the nearest pixel, as the public code does, which differs from it along the borders.
    """

    attention: NDArray[np.float32]  # (K + 1, H, W) in [0, 1], background first; no probabilities
    posterior: NDArray[np.float32] | None  # (K + 1, H, W) of the CRF, sums to 1; None without one
    doubtful: tuple[str, ...]  # classes that are probably not in the image
    compat: Compat  # which reading of "uncertain"

    @property
    def maps(self) -> NDArray[np.float32]:
        """The classes' attention (K, H, W) in [0, 1], without the background and the CRF."""
        return self.attention[1:]

    @property
    def labels(self) -> NDArray[np.uint8]:
        """The place of each pixel's class, uint8 (H, W), counted from 1; 0 is the background."""
        places = np.arange(1, len(self) + 1, dtype=np.uint8)[:, None, None]
        found: NDArray[np.uint8] = (self.masks * places).max(axis=0)
        return found

    def uncertain(self) -> NDArray[np.bool_]:
        """The uncertain pixels (Figure 4), bool (H, W); see :mod:`diffground.masks.uncertainty`.

        With a CRF and compat ``official``: its posterior gives the best label less than 0.95.
        Otherwise: the two best attention scores are less than 0.05 apart.
        """
        if self.posterior is None or self.compat == "paper":
            return uncertain(self.attention, "paper")
        return uncertain(self.posterior, "official")

    def notes(self) -> list[str]:
        """Each class's presence, and whether it is doubtful."""
        return [
            f"presence {'-' if score is None else f'{score:.1f}'}"
            f"{', doubtful' if name in self.doubtful else ''}"
            for name, score in zip(self.phrases, self.scores, strict=True)
        ]


class TextToMask:
    """A frozen diffusion model as an open-vocabulary segmenter."""

    def __init__(
        self,
        model: FrozenDiffusion,
        config: TextToMaskConfig | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        """``vocabulary`` gives names, synonyms and background words, and the thresholds of its
        dataset where ``config`` names none; without one every name is its own prompt, and there
        are no background words."""
        self.model, self.vocabulary = model, vocabulary
        self.config = TextToMaskConfig() if config is None else config
        if vocabulary is not None and vocabulary.dataset is not None:
            attention = self.config.attention.for_dataset(vocabulary.dataset)
            self.config = self.config.model_copy(update={"attention": attention})
        self._room = model.token_room

    def __repr__(self) -> str:
        attention = self.config.attention
        borders = "no CRF" if self.config.crf is None else "CRF"
        words = "any words" if self.vocabulary is None else f"{len(self.vocabulary.names)} classes"
        method = f"{attention.method}, compat {attention.compat}"
        return f"<TextToMask of {self.model.folder.name}: {method}, {borders}, {words}>"

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        config: TextToMaskConfig | None = None,
        vocabulary: str | Path | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """From a local folder in diffusers layout, SD 1.x, 2.x or SDXL.

        Args:
            config: None takes the settings that lie in the folder, see :meth:`TextToMaskConfig.of`.
            vocabulary: "voc", "coco", "mini" or a JSON file; None takes names as they are given.
        """
        model = FrozenDiffusion.from_pretrained(folder, device=device, dtype=dtype)
        words = None if vocabulary is None else Vocabulary.load(vocabulary)
        return cls(model, TextToMaskConfig.of(folder) if config is None else config, words)

    def __call__(
        self,
        image: ImageSource,
        classes: Sequence[str],
        *,
        item: str = "image",
        seed: int = 42,
    ) -> TextMasks:
        """Where each of ``classes`` is in an image: a file, a Pillow picture, or an array.

        All three are read alike (upright, over white, ...): :mod:`diffground.io.images`. Of classes
        that are probably not there a warning says so.
        ``(seed, item)`` decides the noise. Raises InputError for a broken image, and for names that
        are no class of the vocabulary, given twice, or without a token.
        """
        pixels, compat = read_image(image), self.config.attention.compat
        maps = self.maps(pixels, classes, item=item, seed=seed)
        scores = image_scores(maps, self.config.attention).numpy()
        posterior = None
        if self.config.crf is not None:
            posterior = dense_crf(pixels, scores, self.config.crf, compat)
            labels = posterior.argmax(axis=0).astype(np.uint8)
        else:
            labels = initial_labels(maps, self.config.attention)
        assert maps.presence is not None, "the maps were just made"
        presence = maps.presence.numpy()
        return TextMasks(
            image=pixels,
            phrases=tuple(maps.keys),
            masks=np.stack([labels == label for label in range(1, len(maps.keys) + 1)]),
            scores=tuple(None if np.isnan(each) else float(each) for each in presence),
            score="presence",
            attention=scores,
            posterior=posterior,
            doubtful=self._doubtful(maps.keys, presence),
            compat=compat,
        )

    def _doubtful(self, classes: Sequence[str], presence: NDArray[np.float32]) -> tuple[str, ...]:
        """The classes that are probably not there, which is said aloud."""
        low = {
            name: score
            for name, score in zip(classes, presence.tolist(), strict=True)
            if score < self.config.doubt_below
        }
        if low:
            log.warning(
                "probably not in the image: %s (presence below %g); every class gets a mask all "
                "the same",
                ", ".join(f"{name} ({score:.1f})" for name, score in low.items()),
                self.config.doubt_below,
            )
        return tuple(low)

    def prompts(self, classes: Sequence[str]) -> list[Prompt]:
        """What the model is asked for some classes."""
        query = self.config.query
        words = Vocabulary.from_names(classes) if self.vocabulary is None else self.vocabulary
        if query.lead is not None:
            words = words.model_copy(update={"lead": query.lead})
        return compose(
            words,
            classes,
            style=query.style,
            background=query.background,
            synonyms=query.synonyms,
            compat=self.config.attention.compat,
            room=self._room,
        )

    def maps(
        self, image: ImageSource, classes: Sequence[str], *, item: str, seed: int
    ) -> ClassMaps:
        """The maps of the classes, before background and CRF; see ``attention.aggregate``."""
        pixels, prompts = read_image(image), self.prompts(classes)
        return class_maps(self.model, pixels, prompts, self.config.attention, item=item, seed=seed)
