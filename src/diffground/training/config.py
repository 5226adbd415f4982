"""Settings of the training loop."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from diffground.config import Config


class TrainConfig(Config):
    """How a model is trained.

    log_every, checkpoint_every and num_workers change no number, evaluate_every no trained weight.
    """

    max_steps: PositiveInt  # optimizer steps
    batch_size: PositiveInt  # samples per step, over all processes and accumulation rounds
    learning_rate: float = Field(gt=0)
    # Multiples of it by the start of a parameter's name, {"backbone.": 0.1}; the longest counts.
    rate_factors: dict[str, float] = Field(default_factory=dict)
    weight_decay: float = Field(default=0.01, ge=0)  # adamw: decoupled; sgd: L2, in the gradient
    # Multiples of it in the same way. Dumped only when chosen, as two more below: the keys of what
    # was trained before there was a choice stay the same.
    decay_factors: dict[str, NonNegativeFloat] = Field(
        default_factory=dict, exclude_if=lambda factors: not factors
    )
    optimizer: Literal["adamw", "sgd"] = Field(default="adamw", exclude_if=lambda o: o == "adamw")
    betas: tuple[float, float] = (0.9, 0.999)  # of adamw
    # of sgd, which needs it; 0 = off
    momentum: float | None = Field(default=None, ge=0, lt=1, exclude_if=lambda m: m is None)
    schedule: Literal["constant", "linear", "cosine", "poly"] = "cosine"  # poly: (1 - s/S)^0.9
    warmup_steps: int = Field(default=0, ge=0)  # linear from 0
    grad_clip: float = Field(default=1.0, ge=0)  # L2 norm over all parameters; 0 = off
    accumulation: PositiveInt = 1  # rounds per optimizer step; each sees batch_size / accumulation
    mixed_precision: Literal["no", "fp16", "bf16"] = "no"
    ema_decay: float = Field(default=0.0, ge=0, lt=1)  # 0 = off; else the averaged weights count
    seed: int = 0
    num_workers: int = Field(default=0, ge=0)  # data loading processes
    log_every: PositiveInt = 20  # steps
    checkpoint_every: PositiveInt = 200  # steps
    evaluate_every: int = Field(default=0, ge=0)  # steps; 0 = only at the end

    @model_validator(mode="after")
    def _options_of_the_optimizer(self) -> TrainConfig:
        if (self.optimizer == "sgd") != (self.momentum is not None):
            raise ValueError("momentum belongs to the optimizer sgd, and sgd needs it")
        if self.optimizer == "sgd" and self.betas != TrainConfig.model_fields["betas"].default:
            raise ValueError("betas belong to the optimizer adamw")
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
            case "linear":
                return left
            case "poly":
                return float(left**0.9)
            case "cosine":
                import math

                return 0.5 * (1.0 - math.cos(math.pi * left))


def _longest(factors: dict[str, float], name: str) -> float:
    """The factor of the longest start of ``name``; 1 without any."""
    starts = [start for start in factors if name.startswith(start)]
    return factors[max(starts, key=len)] if starts else 1.0
