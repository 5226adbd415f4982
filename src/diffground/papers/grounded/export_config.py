"""Which synthetic samples are written as a dataset for others, how, and what learns from them."""

from __future__ import annotations

from typing import Annotated, Literal

from pydantic import Field, PositiveInt, field_validator

from diffground.config import NOT_IN_KEY, Config
from diffground.segmenters.config import SemanticConfig
from diffground.store.config import WorkConfig

#: Splits that the lists of PASCAL VOC know.
ExportSplit = Literal["train", "val"]
Layout = Literal["coco", "voc"]


class ExportConfig(Config):
    """A synthetic set as a dataset: ``params:grounding_export``."""

    # Split of the dataset -> name of the synthetic set that it is made of
    splits: Annotated[dict[ExportSplit, str], Field(min_length=1)]
    layouts: Annotated[tuple[Layout, ...], Field(min_length=1)]
    limit: PositiveInt | None  # the first so many of the samples that are taken; null = all
    licence: str = Field(min_length=1)  # of the pictures: what the generating model's licence says
    work: Annotated[WorkConfig, NOT_IN_KEY] = WorkConfig()  # shards of files

    @field_validator("splits")
    @classmethod
    def _each_once(cls, splits: dict[ExportSplit, str]) -> dict[ExportSplit, str]:
        if len({*splits.values()}) < len(splits):
            raise ValueError("a set is in several splits: what is trained on would be judged on")
        return splits


class TeachingConfig(Config):
    """How long DeepLabV2 learns from an exported set, and where: ``params:grounding_teaching``.

    All else of it is ``text2mask.segmenter``; the real pictures are ``text2mask.source`` and
    ``.val``.
    """

    max_steps: PositiveInt | None  # null = as long as in From Text to Mask
    seeds: Annotated[tuple[int, ...], Field(min_length=1)]  # of the segmenters' trainings

    def settings(self, segmenter: SemanticConfig, seed: int) -> SemanticConfig:
        """The segmenter's settings, for one training."""
        steps = segmenter.train.max_steps if self.max_steps is None else self.max_steps
        change = {"max_steps": steps, "seed": seed, "evaluate_every": 0}
        content = segmenter.model_dump()
        return SemanticConfig.model_validate(content | {"train": content["train"] | change})
