"""Settings of learning a personal token: Custom Diffusion (Kumari et al., CVPR 2023, "CD").

The defaults are CD's, from its section 4 and its public code; the second paper learns by it and
names no number of its own (002, section 5.3).
"""

from __future__ import annotations

from typing import Annotated, Any, Literal

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator

from diffground.config import NOT_IN_KEY, Config
from diffground.training.config import TrainConfig


class PriorConfig(Config):
    """Pictures of the class, which the model makes of itself and is to go on making."""

    count: PositiveInt = 200  # CD, section 3.2
    prompt: str = "a photo of a {word}"
    weight: NonNegativeFloat = 1.0  # of their loss beside that of the photos (code)
    steps: PositiveInt = 50  # of the sampler; the code's DDIM makes 200
    guidance: float = 6.0  # (code)
    seed: int = 42
    batch: Annotated[PositiveInt, NOT_IN_KEY] = 8  # pictures made at once

    @field_validator("prompt")
    @classmethod
    def _says_the_word(cls, prompt: str) -> str:
        if prompt.count("{word}") != 1 or "{" in prompt.replace("{word}", ""):
            raise ValueError("the class word takes the place of {word}, which must be there once")
        return prompt


class TokenLearningConfig(Config):
    """What is learned of the photos of a thing, and how."""

    # textual_inversion learns the token's embedding alone, without pictures of the class.
    method: Literal["custom_diffusion", "textual_inversion"] = "custom_diffusion"
    # Of all cross-attention layers: keys and values, or also queries and outputs (code: crossattn).
    trained: Literal["kv", "attention"] = "kv"
    # A token begins as a rare one, the first thing as the first of these, or as its class word. The
    # mean embedding where that is several tokens. CD: rarely used words, these are the code's.
    start: Literal["rare", "word"] = "rare"
    rare: tuple[str, ...] = ("ktn", "pll", "ucd")
    templates: tuple[str, ...] = Field(default=("photo of a {}",), min_length=1)  # (code)
    # Photos are made smaller or larger, and their prompts say so (CD, section 3.2).
    resize: bool = True
    flip: float = Field(default=0.5, ge=0, le=1)  # how often they are mirrored (code)
    prior: PriorConfig | None = PriorConfig()  # None: without pictures of the class
    # A sample is a photo and a picture of the class: CD's batch of 8 is 4 of each. Learning rate
    # 8e-5 = 1e-5 times that batch; 500 steps for two things together.
    train: TrainConfig = TrainConfig(
        max_steps=250,
        batch_size=4,
        learning_rate=8e-5,
        schedule="constant",
        checkpoint_every=50,
    )
    # Trades memory for a second pass through the UNet in backward.
    checkpointing: Annotated[bool, NOT_IN_KEY] = False
    # In which what is added to the UNet is kept: 77 or 38 MB for Stable Diffusion 1.x and "kv".
    precision: Literal["float32", "float16"] = "float32"

    @field_validator("train", mode="before")
    @classmethod
    def _changes_of_the_default(cls, content: Any) -> Any:
        """What is not named of the training loop is CD's, not the loop's own."""
        if not isinstance(content, dict):
            return content
        return {**cls.model_fields["train"].default.model_dump(), **content}

    @field_validator("templates")
    @classmethod
    def _each_has_a_place(cls, templates: tuple[str, ...]) -> tuple[str, ...]:
        for template in templates:
            if template.count("{}") != 1 or "{" in template.replace("{}", ""):
                raise ValueError(f"{template!r}: the token takes the place of {{}}, once")
        return templates

    @property
    def class_pictures(self) -> PriorConfig | None:
        """The pictures of the class that are learned beside; textual inversion has none."""
        return self.prior if self.method == "custom_diffusion" else None
