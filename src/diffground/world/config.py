"""What the mini datasets are: canvas, seeds and how much of everything."""

from __future__ import annotations

from typing import Any

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from diffground.config import Config

# Of each dataset's files; raised when the same configuration would give others: folders that were
# made before are then made again.
RENDERERS = {"coco_panoptic": 2, "voc2012": 1, "coco2014": 1, "mug19": 1}


class CocoPanopticCounts(Config):
    """Images of the COCO-2017 panoptic dataset, each with one narrative."""

    train: NonNegativeInt = 1200  # paper: 118,287
    val: NonNegativeInt = 200  # paper: 5,000


class VocCounts(Config):
    """Images of the VOC-2012 dataset. ``train_aug`` is ``train`` and ``aug`` together."""

    train: NonNegativeInt = 160  # paper: 1,464
    aug: NonNegativeInt = 840  # only in train_aug; paper: 9,118
    val: NonNegativeInt = 160  # paper: 1,449
    test: NonNegativeInt = 0  # images without masks; paper: 1,456


class Coco2014Counts(Config):
    """Images of the COCO-2014 segmentation dataset."""

    train: NonNegativeInt = 800  # paper: 82,081
    val: NonNegativeInt = 120  # paper: 40,137


class Mug19Counts(Config):
    """Mug19 (paper 002, section 4): nineteen items, scenes of three to five of them."""

    scenes: PositiveInt = 47  # paper: 47
    views: PositiveInt = 4  # pictures of a scene; paper: 100
    min_references: PositiveInt = 5  # pictures of an item; paper: 5 to 10
    max_references: PositiveInt = 10
    scene_width: PositiveInt = 256  # pixels, scenes are `size` high; paper: 1137 x 640

    @model_validator(mode="after")
    def _references_in_order(self) -> Mug19Counts:
        if self.min_references > self.max_references:
            raise ValueError(
                f"min_references {self.min_references} > max_references {self.max_references}"
            )
        return self


class WorldConfig(Config):
    """``world`` in the parameters.

    A dataset's training images come from ``seed``, its validation images from ``eval_seed``. The
    mini models learn from scenes of a third seed (``foundation.scenes.seed``).
    """

    make: bool = True  # False: the datasets are somebody's own, and are only looked at
    size: PositiveInt = 128  # canvas, pixels
    seed: NonNegativeInt
    eval_seed: NonNegativeInt  # of held-out scenes
    coco_panoptic: CocoPanopticCounts = Field(default_factory=CocoPanopticCounts)
    voc2012: VocCounts = Field(default_factory=VocCounts)
    coco2014: Coco2014Counts = Field(default_factory=Coco2014Counts)
    mug19: Mug19Counts = Field(default_factory=Mug19Counts)

    @model_validator(mode="after")
    def _nothing_is_left_empty(self) -> WorldConfig:
        """Of data of one's own, a split may be missing; a made one without images trains nothing,
        and would take the place of a good one."""
        needed = {
            "coco_panoptic": ("train", "val"),
            "voc2012": ("train", "val"),
            "coco2014": ("train", "val"),
        }
        for dataset, splits in needed.items() if self.make else ():
            for split in splits:
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

    def recipe(self, dataset: str) -> dict[str, Any]:
        """All that the files of one dataset depend on: the configuration of its manifest."""
        return {
            "dataset": dataset,
            "renderer": RENDERERS[dataset],
            "size": self.size,
            "seed": self.seed,
            "eval_seed": self.eval_seed,
            **getattr(self, dataset).model_dump(),
        }
