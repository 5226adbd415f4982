"""What the synthetic sets are: prompts, generation, the detector, and which samples are taken.

Section numbers are of the third paper, (003) Simoncini and Ankit, and of the fourth, (004) IOSD;
"code" is their public code.
"""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from diffground.config import NOT_IN_KEY, AutoDevice, Config
from diffground.papers.grounded.classes import SplitName
from diffground.papers.grounded.templates import TEMPLATES, TemplateName, places
from diffground.store.config import WorkConfig

Fraction = Annotated[float, Field(ge=0, le=1)]


class SetConfig(Config):
    """One set of samples."""

    # mixed: one seen and one unseen class in every prompt (003, section 3.3)
    classes: Literal["seen", "unseen", "mixed"]
    attempts: PositiveInt  # pictures that are generated; the detector takes its part of them
    # random: classes are drawn; each: the first one is each class in turn, as often (004, 4.2)
    draw: Literal["random", "each"]


class PromptConfig(Config):
    """How a sample's prompt and its questions come about."""

    split: SplitName
    # A name of templates.py, or templates of one's own with one {} or two. Of several each is as
    # likely as the others.
    templates: TemplateName | tuple[str, ...]
    # all: all classes of the prompt. one: one of them, at either place; the other, of the seen
    # classes, is there to tell it from: the negative class of 004, section 3.4
    asked: Literal["all", "one"]
    # Classes asked for beside, which no prompt names and whose masks are empty (003, section 6)
    absent: NonNegativeInt

    @property
    def texts(self) -> tuple[str, ...]:
        """The templates themselves."""
        return TEMPLATES[self.templates] if isinstance(self.templates, str) else self.templates

    @field_validator("templates")
    @classmethod
    def _have_places(cls, templates: str | tuple[str, ...]) -> str | tuple[str, ...]:
        if not templates:
            raise ValueError("no template: one at least is needed")
        for text in () if isinstance(templates, str) else templates:
            if places(text) not in (1, 2):
                raise ValueError(f"{text!r}: a class takes the place of each {{}}, one or two")
        return templates

    @model_validator(mode="after")
    def _has_another(self) -> PromptConfig:
        if self.asked == "one" and any(places(text) != 2 for text in self.texts):
            raise self.refusal("asked", "one of two classes needs templates with two {}")
        return self


class GenerationConfig(Config):
    """How pictures are made. A batch is part of it: kernels round differently in another one."""

    steps: PositiveInt  # of the scheduler
    guidance: float  # at 1 and below there is none, as for SDXL-Turbo
    scheduler: str | None  # a class of diffusers in place of the folder's; null = the folder's
    size: tuple[PositiveInt, PositiveInt] | None  # (height, width); null = what the UNet learnt
    batch: PositiveInt  # pictures that are made at once, and the samples of a file


class DetectorConfig(Config):
    """The off-the-shelf segmenter that gives the true masks."""

    # What scores less is not kept; a class without any instance above it is missing (mmdet's 0.05)
    floor: Fraction
    names: dict[str, tuple[str, ...]]  # class -> the detector's labels, where they are others


class ChoiceConfig(Config):
    """Which of the kept samples are taken, and what is true of them. Nothing is made for it."""

    # Every class asked for needs an instance with this score (004, section 3.3; code: 0.8)
    least_score: Fraction
    # first: the best instance of a class is its mask, others are background (code); all: all of
    # them that score enough
    instances: Literal["first", "all"]
    top: Annotated[float, Field(gt=0, le=1)]  # the part with the best pictures (003, section 3.2)


class ScoringConfig(Config):
    """Pictures are judged by CLIP: is this rather the first text than the second (CLIP-IQA)?"""

    antonyms: Annotated[tuple[tuple[str, str], ...], Field(min_length=1)]  # the mean over them


class GroundingDataConfig(Config):
    """All synthetic sets of an experiment: ``params:grounding_data``."""

    scale: Literal["mini", "paper"]  # said beside every number
    device: AutoDevice  # auto = the GPU if there is one
    precision: Literal["float32", "bfloat16", "float16"]  # of the frozen model
    compile: Annotated[bool, NOT_IN_KEY]  # its residual blocks: minutes at first, then faster
    seed: int
    sets: Annotated[dict[str, SetConfig], Field(min_length=1)]
    prompts: PromptConfig
    generation: GenerationConfig
    detector: DetectorConfig
    choice: ChoiceConfig
    scoring: ScoringConfig
    work: WorkConfig = WorkConfig()  # shards of files
    figures: Annotated[NonNegativeInt, NOT_IN_KEY]  # accepted samples in the grid, and rejected

    @field_validator("sets")
    @classmethod
    def _names_are_folders(cls, sets: dict[str, SetConfig]) -> dict[str, SetConfig]:
        for name in sets:
            if not name.replace("_", "").isalnum() or Path(name).name != name:
                raise ValueError(f"{name!r}: letters, digits and _ make the name of a folder")
        return sets

    @model_validator(mode="after")
    def _pairs_are_pairs(self) -> GroundingDataConfig:
        single = any(places(text) == 1 for text in self.prompts.texts)
        for name, one in self.sets.items():
            if one.classes == "mixed" and (single or self.prompts.asked == "one"):
                reason = f"{name}: a seen and an unseen class need two {{}}, and both asked for"
                raise self.refusal("sets", reason)
        return self
