"""Settings of the training loop."""

from __future__ import annotations

import math
from typing import Annotated, Any, Literal

from pydantic import (
    BeforeValidator,
    Field,
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    ValidationInfo,
    field_validator,
    model_validator,
)

from diffground.config import NOT_IN_KEY, Config


class ScaledRate(Config):
    """A learning rate that was found at one batch size, for another."""

    rate: PositiveFloat  # at `batch`
    batch: PositiveInt  # samples per step that `rate` is for
    # linear: grows with the batch, as is usual for SGD; sqrt: with its root, for Adam
    rule: Literal["linear", "sqrt"]

    def at(self, batch_size: int) -> float:
        """The rate for steps of ``batch_size`` samples."""
        ratio = batch_size / self.batch
        return self.rate * (ratio if self.rule == "linear" else math.sqrt(ratio))


def _scaled(content: Any, info: ValidationInfo) -> Any:
    if isinstance(content, dict) and "batch_size" in info.data:
        return ScaledRate.model_validate(content).at(info.data["batch_size"])
    return content


#: A learning rate, or a :class:`ScaledRate` as a mapping, which becomes that of ``batch_size``, a
#: field before it. Keys, logs and checkpoints know the number that it comes to. Nothing is scaled
#: by the number of processes: they share a batch, and each has less of it.
LearningRate = Annotated[float, Field(gt=0), BeforeValidator(_scaled)]


class TrainConfig(Config):
    """How a model is trained."""

    max_steps: PositiveInt  # optimizer steps
    # Samples per step, over all processes and accumulation rounds. The bound is above what any
    # recipe takes, and below what fills a machine's memory before it fails.
    batch_size: int = Field(gt=0, le=4096)
    learning_rate: LearningRate
    # Multiples of it by the start of a parameter's name, {"backbone.": 0.1}; the longest counts.
    rate_factors: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    weight_decay: float = Field(default=0.01, ge=0)  # adamw: decoupled; sgd: L2, in the gradient
    # Multiples of it in the same way.
    decay_factors: dict[str, NonNegativeFloat] = Field(default_factory=dict)
    optimizer: Literal["adamw", "sgd"] = "adamw"
    momentum: float | None = Field(default=None, ge=0, lt=1)  # of sgd, which needs it; 0 = off
    # poly: (1 - s/S)^0.9; halved: every 6000 steps, as in the public code of IOSD (004)
    schedule: Literal["constant", "cosine", "poly", "halved"] = "cosine"
    warmup_steps: int = Field(default=0, ge=0)  # linear from 0; fewer than max_steps
    grad_clip: float = Field(default=1.0, ge=0)  # L2 norm over all parameters; 0 = off
    # Rounds per optimizer step; each sees batch_size / accumulation. Changes float sums only, if
    # the loss counts over the whole step and no batch norm is trained. So do processes, which share
    # each round; their batch norms have to be shared too (norms.py).
    accumulation: Annotated[PositiveInt, NOT_IN_KEY] = 1
    mixed_precision: Annotated[Literal["no", "fp16", "bf16"], NOT_IN_KEY] = "no"
    ema_decay: float = Field(default=0.0, ge=0, lt=1)  # 0 = off; else the averaged weights count
    seed: int = 0
    num_workers: Annotated[int, Field(ge=0), NOT_IN_KEY] = 0  # data loading processes
    log_every: Annotated[PositiveInt, NOT_IN_KEY] = 20  # steps
    checkpoint_every: Annotated[PositiveInt, NOT_IN_KEY] = 200  # steps
    # Steps; 0 = only at the end. Moves no weight, but the best are chosen among those evaluated.
    evaluate_every: Annotated[int, Field(ge=0), NOT_IN_KEY] = 0

    @field_validator("rate_factors", "decay_factors", mode="before")
    @classmethod
    def _nothing_is_no_factor(cls, content: Any) -> Any:
        """``null`` takes base's factors away; ``{}``, laid over them, would change none."""
        return {} if content is None else content

    @model_validator(mode="after")
    def _warms_up_in_time(self) -> TrainConfig:
        if self.warmup_steps >= self.max_steps:
            raise self.refusal("warmup_steps", f"must be less than max_steps, {self.max_steps}")
        return self

    @model_validator(mode="after")
    def _options_of_the_optimizer(self) -> TrainConfig:
        if (self.optimizer == "sgd") != (self.momentum is not None):
            raise ValueError("momentum belongs to the optimizer sgd, and sgd needs it")
        return self

    def rate_factor(self, name: str) -> float:
        """What the learning rate of the parameter ``name`` is multiplied by."""
        return _longest(self.rate_factors, name)

    def decay_factor(self, name: str) -> float:
        """What the weight decay of the parameter ``name`` is multiplied by."""
        return _longest(self.decay_factors, name)

    def lr_factor(self, step: int) -> float:
        """What the learning rate is multiplied by at ``step`` (0-based)."""
        if step < self.warmup_steps:
            return (step + 1) / self.warmup_steps
        span = max(1, self.max_steps - self.warmup_steps)
        left = max(0.0, 1.0 - (step - self.warmup_steps) / span)
        match self.schedule:
            case "constant":
                return 1.0
            case "poly":
                return float(left**0.9)
            case "halved":
                return float(0.5 ** ((step - self.warmup_steps) // 6000))
            case "cosine":
                return 0.5 * (1.0 - math.cos(math.pi * left))


def _longest(factors: dict[str, float], name: str) -> float:
    """The factor of the longest start of ``name``; 1 without any."""
    starts = [start for start in factors if name.startswith(start)]
    return factors[max(starts, key=len)] if starts else 1.0
