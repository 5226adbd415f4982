"""What a grounding module is, what it is asked with, and by which loss it learns."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveInt, model_validator

from diffground.config import Compat, Config

#: Which maps of the UNet a module reads, see :mod:`.feature_maps`.
Features = Literal["layers", "blocks"]
#: Table 3 of 003, in its words.
Template = Literal["x and y", "a photograph of x and y", "a photograph of x", "x"]
Loss = Literal["bce", "dice", "dice_bce", "log_cosh"]
#: Of a trained module: the best on validation samples, or those of the last step.
Weights = Literal["best", "last"]


class GroundingModuleConfig(Config):
    """The choices and sizes in which Grounded Diffusion, its improvement and IOSD differ."""

    features: Features
    # The maps of the unconditional pass lie before those of the conditional one in the channels.
    guided: bool
    # Every channel of a map is brought to mean 0 and variance 1 first. This is ours: where a UNet's
    # coarse maps are a thousand times larger than its fine ones, they drown a pyramid's queries.
    standardized: bool
    # IOSD's segmentation module (S in Table 2 of 004): queries see the levels one after the other.
    # Without: they see the finest map alone.
    pyramid: bool
    joint: bool  # the queries of an image see each other
    widths: tuple[PositiveInt, ...] = Field(min_length=2)  # channels by level, from the coarsest
    final_width: PositiveInt | None  # channels that masks are read from; only with pyramid
    patch: PositiveInt  # cells per side of what becomes one visual token
    width: PositiveInt  # channels of queries and tokens
    heads: PositiveInt
    layers: PositiveInt  # of a decoder
    ffn: PositiveInt
    hidden: PositiveInt  # channels inside the multi-layer perceptrons
    dropout: float = Field(ge=0, lt=1)

    @model_validator(mode="after")
    def _choices_fit(self) -> GroundingModuleConfig:
        if self.width % self.heads:
            raise self.refusal("heads", f"width {self.width} is no multiple of it")
        if self.pyramid != (self.final_width is not None):
            reason = "a pyramid needs one, and nothing else has one"
            raise self.refusal("final_width", reason)
        return self

    @property
    def read(self) -> FeatureConfig:
        """What it reads of the UNet."""
        return FeatureConfig(features=self.features, guided=self.guided)


class FeatureConfig(Config):
    """Which features of the frozen UNet are read."""

    features: Features
    guided: bool  # with the unconditional half, which doubles the channels


class QueryConfig(Config):
    """How class names become queries, see :mod:`.queries`."""

    template: Template
    tokens: Literal["mean", "first"]  # of a class's sub-words: all, or IOSD's public code's
    subtract: bool  # the embeddings of the other classes, 003, section 5
    compat: Compat


class LossConfig(Config):
    """The loss of masks, see :mod:`.losses`."""

    loss: Loss
    compat: Compat
