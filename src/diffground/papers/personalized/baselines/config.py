"""Settings of the methods that SelfCross is compared with (002, §5.3, appendix B.2).

The defaults are those of the papers and public codes, for weights of the released sizes; the paper
itself names none.
"""

from __future__ import annotations

from typing import Final, Literal

from pydantic import Field, PositiveInt

from diffground.config import Config
from diffground.training.config import TrainConfig

#: What CLIP-ES sets against the classes that it looks for, beside them (its public code, VOC).
CLIP_ES_BACKGROUND: Final = (
    "ground", "land", "grass", "tree", "building", "wall", "sky", "lake", "water", "river", "sea",
    "railway", "railroad", "keyboard", "helmet", "cloud", "house", "mountain", "ocean", "road",
    "rock", "street", "valley", "bridge", "sign",
)  # fmt: skip


class DetectorConfig(Config):
    """Whose instances are taken, and which."""

    # What the detector calls a class word, if not that: COCO's mugs are cups.
    names: dict[str, tuple[str, ...]] = Field(default_factory=dict)
    threshold: float = Field(default=0.5, ge=0, lt=1)  # of an instance's score


class DescriptorsConfig(Config):
    """How images are described by a vision transformer."""

    # Pixels that an image's shorter side gets. Amir et al. take 224 and every fourth pixel, of a
    # network with patches of 8: twice the size gives as many patches.
    short_side: PositiveInt = 448
    layer: int = 9  # whose keys are the descriptors, of DINO's 12; -1 = the last
    saliency: float = Field(default=0.065, ge=0, lt=1)  # above it a patch is the item's


class ClipEsConfig(Config):
    """How CLIP-ES localises."""

    template: str = Field(default="a clean origami {}.", pattern=r"\{\}")
    background: tuple[str, ...] = CLIP_ES_BACKGROUND
    short_side: PositiveInt | None = None  # pixels of an image's shorter side; None: as it is
    layers: PositiveInt = 8  # the last ones, whose attention is the affinity
    box_threshold: float = Field(default=0.4, ge=0, lt=1)  # of a map's maximum


class PalavraConfig(Config):
    """How a word is learned in CLIP's vocabulary."""

    prompt: str = Field(default="This is a photo of a {}", pattern=r"\{\}")
    temperature: float = Field(default=0.25, gt=0)
    train: TrainConfig = TrainConfig(
        max_steps=30, batch_size=1, learning_rate=0.01, weight_decay=0.0, schedule="constant"
    )


class ArithmeticConfig(Config):
    """What the mean of image and class takes the place of.

    - ``context``: the class word's state behind the text encoder, which the UNet reads. The mean
      comes there by the inverse of CLIP's projection, so CLIP must be the one whose text encoder
      the diffusion model has.
    - ``tokens``: the class word's row in the table before the text encoder, where personal tokens
      are. The mean comes there by a linear map that was fitted to the words of the vocabulary, so
      any CLIP with the same vocabulary will do.
    """

    place: Literal["context", "tokens"] = "context"
    # Of `tokens`: how much of the mean squared feature is added to the diagonal of the normal
    # equations; vocabularies have words that are rare.
    ridge: float = Field(default=0.01, gt=0)


class BaselinesConfig(Config):
    """All of them."""

    detector: DetectorConfig = DetectorConfig()
    descriptors: DescriptorsConfig = DescriptorsConfig()
    clip_es: ClipEsConfig = ClipEsConfig()
    palavra: PalavraConfig = PalavraConfig()
    arithmetic: ArithmeticConfig = ArithmeticConfig()
