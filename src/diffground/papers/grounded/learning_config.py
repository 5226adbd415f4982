"""How a grounding module learns, and what it is measured on.

Section numbers are of the third paper, (003); IOSD is the fourth, (004).
"""

from __future__ import annotations

import math
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from diffground.config import NOT_IN_KEY, Config
from diffground.papers.grounded.data_config import Fraction
from diffground.papers.grounded.module_config import (
    GroundingModuleConfig,
    LossConfig,
    QueryConfig,
    Weights,
)
from diffground.papers.grounded.module_sizes import MODULES
from diffground.training.config import LearningRate, TrainConfig

ModuleName = Literal["gd", "improved", "iosd", "mini-gd", "mini-improved", "mini-iosd"]


class GroundingLoopConfig(Config):
    """The training loop: Adam, without weight decay or clipping, as in all three public codes."""

    # How long: one of the two, the other is null
    epochs: PositiveInt | None
    steps: PositiveInt | None
    batch_size: PositiveInt  # samples a step
    learning_rate: LearningRate
    schedule: Literal["constant", "cosine", "halved"]
    evaluations: PositiveInt  # on validation samples, evenly over the training; the best is kept
    seed: int  # of the weights, the order of samples, and dropout
    mixed_precision: Annotated[Literal["no", "fp16", "bf16"], NOT_IN_KEY]
    checkpoint_every: Annotated[PositiveInt, NOT_IN_KEY]  # steps

    @model_validator(mode="after")
    def _ends(self) -> GroundingLoopConfig:
        if (self.epochs is None) == (self.steps is None):
            raise self.refusal("epochs", "either epochs or steps say how long, the other is null")
        return self

    def over(self, samples: int) -> TrainConfig:
        """The loop's settings for a number of samples."""
        steps = self.steps or math.ceil((self.epochs or 0) * samples / self.batch_size)
        steps = max(1, steps)
        return TrainConfig(
            max_steps=steps,
            batch_size=self.batch_size,
            learning_rate=self.learning_rate,
            weight_decay=0,
            schedule=self.schedule,
            grad_clip=0,
            seed=self.seed,
            mixed_precision=self.mixed_precision,
            log_every=max(1, steps // 100),
            checkpoint_every=self.checkpoint_every,
            evaluate_every=math.ceil(steps / self.evaluations),
        )


class LearningConfig(Config):
    """What learns, of what questions, by which loss: ``params:grounding_train``."""

    module: ModuleName | GroundingModuleConfig  # a name of module.py, or all of its sizes
    query: QueryConfig
    loss: LossConfig
    train: GroundingLoopConfig
    # Features of training and validation samples are kept as files of 16 bits while they are read
    # again and again (:mod:`.features`), and not computed every time.
    cache: bool

    @property
    def sizes(self) -> GroundingModuleConfig:
        """The module's, whether it has a name or not."""
        return MODULES[self.module] if isinstance(self.module, str) else self.module

    @property
    def name(self) -> str:
        """What the module is called: as :data:`~.module_sizes.MODULES` has it, else "own"."""
        known = [name for name, sizes in MODULES.items() if sizes == self.sizes]
        return known[0] if known else "own"


class DaamConfig(Config):
    """The baseline: heat maps of words, cut off where validation samples say."""

    thresholds: Annotated[tuple[Fraction, ...], Field(min_length=1)]  # those that are tried
    batch: Annotated[PositiveInt, NOT_IN_KEY]  # pictures that are generated again at once


class MeasuringConfig(Config):
    """What is measured: ``params:grounding_eval``."""

    groups: Annotated[dict[str, str], Field(min_length=1)]  # group of classes -> set of samples
    weights: Weights  # best: by mIoU on validation samples; last: of the last step
    batch: Annotated[PositiveInt, NOT_IN_KEY]  # samples at once
    daam: DaamConfig | None  # null = without the baseline
    figures: Annotated[NonNegativeInt, NOT_IN_KEY]  # samples of each group that are shown
