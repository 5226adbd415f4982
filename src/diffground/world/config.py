"""What the mini datasets are: canvas, seeds and how much of everything."""

from __future__ import annotations

from typing import Annotated, Any, NamedTuple

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from diffground.config import Config


class CocoCounts(Config):
    """Images of the panoptic COCO-2017, each with one narrative, or of the COCO-2014 of classes."""

    train: NonNegativeInt
    val: NonNegativeInt


class VocCounts(Config):
    """Images of the VOC-2012 dataset. ``train_aug`` is ``train`` and ``aug`` together."""

    train: NonNegativeInt
    aug: NonNegativeInt  # only in train_aug
    val: NonNegativeInt
    test: NonNegativeInt = 0  # images without masks; VOC has 1,456, in an archive of their own


class Mug19Counts(Config):
    """Mug19 (paper 002, section 4): nineteen items, scenes of three to five of them."""

    scenes: PositiveInt
    views: PositiveInt  # pictures of a scene
    min_references: PositiveInt  # pictures of an item
    max_references: PositiveInt
    scene_width: PositiveInt  # pixels, scenes are `size` high

    @model_validator(mode="after")
    def _references_in_order(self) -> Mug19Counts:
        if self.min_references > self.max_references:
            least, most = self.min_references, self.max_references
            raise ValueError(f"min_references {least} > max_references {most}")
        return self


class Canvas(NamedTuple):
    """How a scene is drawn."""

    size: int  # pixels of a side
    sizes: tuple[float, ...]  # heights of things, see :class:`WorldConfig`


class WorldConfig(Config):
    """``world`` in the parameters.

    A dataset's training images come from ``seed``, its validation images from ``eval_seed``. The
    mini models learn from scenes of a third seed (``foundation.scenes.seed``).
    """

    make: bool  # False: the datasets are somebody's own, and are only looked at
    size: PositiveInt  # canvas, pixels
    # Heights of things where a scene has 1, 2, ... of them (more: the last): fractions of its own.
    sizes: tuple[Annotated[float, Field(gt=0, le=0.8)], ...] = Field(min_length=1)
    seed: NonNegativeInt
    eval_seed: NonNegativeInt  # of held-out scenes
    coco_panoptic: CocoCounts
    voc2012: VocCounts
    coco2014: CocoCounts
    mug19: Mug19Counts

    @model_validator(mode="after")
    def _nothing_is_left_empty(self) -> WorldConfig:
        """Of data of one's own, a split may be missing; a made one without images trains nothing,
        and would take the place of a good one."""
        for dataset in ("coco_panoptic", "voc2012", "coco2014") if self.make else ():
            for split in ("train", "val"):
                if not getattr(getattr(self, dataset), split):
                    raise ValueError(f"{dataset}.{split} is 0: at least one image is needed")
        return self

    @model_validator(mode="after")
    def _can_be_drawn(self) -> WorldConfig:
        if self.seed == self.eval_seed:
            raise ValueError(f"eval_seed must differ from seed, both are {self.seed}")
        width = self.mug19.scene_width
        for name, pixels in (("size", self.size), ("mug19.scene_width", width)):
            if pixels % 8:
                raise ValueError(f"{name} {pixels} is no multiple of 8, the autoencoder's factor")
        if 2 * width < 3 * self.size:
            raise ValueError(f"mug19.scene_width {width} is not 1.5 times the height {self.size}")
        return self

    @property
    def canvas(self) -> Canvas:
        """How a scene is drawn."""
        return Canvas(self.size, self.sizes)

    def recipe(self, dataset: str, code: int) -> dict[str, Any]:
        """All that the files of one dataset depend on: the configuration of its manifest.

        ``code`` is the code version of the module that writes them.
        """
        return {
            "dataset": dataset,
            "code": {dataset: code},
            "size": self.size,
            "sizes": self.sizes,
            "seed": self.seed,
            "eval_seed": self.eval_seed,
            **getattr(self, dataset).model_dump(),
        }
