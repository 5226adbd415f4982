"""Three lines from an image to masks, without training (From Text to Mask, 002, §3).

segmenter = TextToMask.from_pretrained("data/06_models/mini-sd")
result = segmenter(image, ["cat", "sofa"])
result.overlay().save("overlay.png")

``K`` classes asked for · ``H, W`` pixels of the image
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffground.attention.aggregate import (
    AggregationConfig,
    ClassMaps,
    class_maps,
    image_scores,
    initial_labels,
)
from diffground.attention.queries import Prompt, Style, TokenRoom, compose
from diffground.attention.vocabulary import Vocabulary
from diffground.backbone.frozen import FrozenDiffusion
from diffground.config import Config
from diffground.errors import InputError
from diffground.io.images import read_image
from diffground.masks.crf import CrfConfig, dense_crf
from diffground.masks.uncertainty import uncertain
from diffground.reporting.overlays import overlay

RECIPE_FILE = "diffground_text2mask.json"  # in a model folder: the settings that suit the model


class QueryConfig(Config):
    """How classes become prompts (002, §3.1, §5.2)."""

    style: Style = "composed"  # one sentence for all classes, or one each
    background: bool = True  # names what may surround them as well
    synonyms: bool = True  # the vocabulary's richer names
    lead: str | None = None  # how a sentence begins; None: as the vocabulary says


class TextToMaskConfig(Config):
    """The method: queries, attention, and the dense CRF (None leaves it out)."""

    query: QueryConfig = QueryConfig()
    attention: AggregationConfig = AggregationConfig()
    crf: CrfConfig | None = CrfConfig()

    @classmethod
    def of(cls, folder: str | Path) -> Self:
        """The settings in the model folder's ``diffground_text2mask.json``, else the defaults.

        The mini model has such a file: it is smaller than what the defaults, those of the public
        code for SD 1.4, are meant for. Raises InputError for a file that says anything else.
        """
        file = Path(folder) / RECIPE_FILE
        if not file.exists():
            return cls()
        try:
            return cls.model_validate_json(file.read_text("utf-8"))
        except ValueError as error:
            raise InputError(file, "settings", str(error)) from error


@dataclass(frozen=True)
class TextMasks:
    """What was found in one image."""

    image: NDArray[np.uint8]  # RGB (H, W, 3)
    names: tuple[str, ...]  # "background" and the K classes
    maps: NDArray[np.float32]  # (K, H, W) in [0, 1], before the background and the CRF
    probabilities: NDArray[np.float32]  # (K + 1, H, W), the CRF's posterior, else the scores
    labels: NDArray[np.uint8]  # (H, W), index into names

    def mask(self, name: str) -> NDArray[np.bool_]:
        """Where a class is, bool (H, W); KeyError for one that was not asked for."""
        if name not in self.names:
            raise KeyError(f"{name!r} was not asked for: {', '.join(self.names)}")
        found: NDArray[np.bool_] = self.labels == self.names.index(name)
        return found

    def uncertain(self) -> NDArray[np.bool_]:
        """Where the CRF is not sure: less than 0.95 for the best label (Figure 4), bool (H, W)."""
        return uncertain(self.probabilities, "official")

    def overlay(self) -> Image.Image:
        """The image with the classes in colours, and their names below."""
        masks = np.stack([self.labels == index for index in range(1, len(self.names))])
        return Image.fromarray(overlay(self.image, masks, self.names[1:]))


class TextToMask:
    """A frozen diffusion model as an open-vocabulary segmenter."""

    def __init__(
        self,
        model: FrozenDiffusion,
        config: TextToMaskConfig | None = None,
        vocabulary: Vocabulary | None = None,
    ) -> None:
        """``vocabulary`` gives names, synonyms and background words; without one every name is its
        own prompt, and there are no background words."""
        self.model, self.vocabulary = model, vocabulary
        self.config = TextToMaskConfig() if config is None else config
        self._room = TokenRoom.of(model)

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
        image: NDArray[np.uint8] | Image.Image | str | Path,
        classes: Sequence[str],
        *,
        item: str = "image",
        seed: int = 42,
    ) -> TextMasks:
        """Where each of ``classes`` is in an image: a file, a picture, or RGB uint8 (H, W, 3).

        ``(seed, item)`` decides the noise. Raises InputError for a broken image, and for names that
        are no class of the vocabulary, given twice, or without a token.
        """
        pixels = _pixels(image)
        maps = self.maps(pixels, classes, item=item, seed=seed)
        scores = image_scores(maps, self.config.attention).numpy()
        if self.config.crf is not None:
            probabilities = dense_crf(pixels, scores, self.config.crf)
            labels = probabilities.argmax(axis=0).astype(np.uint8)
        else:
            probabilities, labels = scores, initial_labels(maps, self.config.attention)
        return TextMasks(pixels, ("background", *maps.keys), scores[1:], probabilities, labels)

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
        self, image: NDArray[np.uint8], classes: Sequence[str], *, item: str, seed: int
    ) -> ClassMaps:
        """The maps of the classes, before background and CRF; see ``attention.aggregate``."""
        prompts = self.prompts(classes)
        return class_maps(self.model, image, prompts, self.config.attention, item=item, seed=seed)


def _pixels(image: NDArray[np.uint8] | Image.Image | str | Path) -> NDArray[np.uint8]:
    if isinstance(image, (str, Path)):
        return read_image(image)
    if isinstance(image, Image.Image):
        return np.asarray(image.convert("RGB"))
    return image
