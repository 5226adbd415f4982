"""What one experiment with personal objects is: how they are learned, localised and judged."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, model_validator

from diffground.attention.config import AggregationConfig
from diffground.config import NOT_IN_KEY, AutoDevice, Config
from diffground.io.files import load_config
from diffground.masks.config import SpectralConfig
from diffground.metrics.config import Matching
from diffground.papers.personalized.baselines.config import BaselinesConfig
from diffground.papers.personalized.learning_config import TokenLearningConfig
from diffground.store.config import WorkConfig

RECIPE_FILE = "diffground_personalized.json"  # in a model folder: the settings that suit the model

#: Which tokens of a query's sentence are read for its map, see `LocaliserConfig.read`.
Reading = Literal["phrase", "content", "subject"]


#: What finds the objects: the rows of Tables 7, B.9 and B.10, see `rows`.
MethodName = Literal[
    "ours", "subject", "context", "chance",
    "detector", "descriptors", "arithmetic",
    "palavra+clip_es", "custom+clip_es", "palavra+selfcross",
]  # fmt: skip


class LocaliserConfig(Config):
    """How objects are found in a scene (002, §5.3). The attention's settings are those of §5.1."""

    attention: AggregationConfig = AggregationConfig()
    # How the sentence begins that asks for the object area, "A photo including <class>." (§5.3)
    lead: str = "A photo including"
    # Of "a <new1> mug filled with cola", the mean over the tokens of: "phrase", every word;
    # "content", words that mean something (<new1>, mug, cola); "subject", the token and its class.
    # The paper does not say. The text encoder reads from left to right, so the tokens before it
    # know nothing of "cola".
    read: Reading = "phrase"
    segments: SpectralConfig = SpectralConfig()
    # A scene with a lower presence of the class is doubtful, which is said; 0: none is. At 1 the
    # class attracts the image no more than "A photo including" does.
    doubt_below: NonNegativeFloat = 1.0

    @model_validator(mode="after")
    def _spreads_cross(self) -> Self:
        if self.attention.method != "selfcross":
            raise self.refusal("attention.method", "personal objects are found by selfcross")
        if self.attention.noise_batch is not None:
            raise self.refusal("attention.noise_batch", "all noises are looked at in one pass")
        return self


class PersonalLocaliserConfig(Config):
    """How things are learned from photos, and found: what is used without Kedro."""

    learning: TokenLearningConfig = TokenLearningConfig()
    localiser: LocaliserConfig = LocaliserConfig()

    @classmethod
    def of(cls, folder: str | Path) -> Self:
        """The settings in the model folder's ``diffground_personalized.json``, else the defaults.

        The mini model has such a file: it is smaller than what the defaults, those of the paper for
        SD 1.4, are meant for. Raises InputError for a file that says anything else.
        """
        file = Path(folder) / RECIPE_FILE
        if not file.exists():
            return cls()
        return load_config(cls, file, "settings")


class PersonalizedConfig(Config):
    """A whole experiment: ``params:personalized``."""

    scale: Literal["mini", "paper"]  # said beside every number
    device: AutoDevice  # auto = the GPU if there is one
    precision: Literal["float32", "bfloat16", "float16"]  # of the frozen model
    compile: Annotated[bool, NOT_IN_KEY]  # its residual blocks: minutes at first, then faster
    seed: int  # of all that is learned and of the noises, with the item's or the picture's name
    # Pictures of scenes that are looked at, spread evenly; items that are in none are not learned.
    # null = all
    limit: PositiveInt | None
    deep_check: bool  # whether the doctor opens every picture and mask
    method: MethodName
    learning: TokenLearningConfig = TokenLearningConfig()
    baselines: BaselinesConfig = BaselinesConfig()
    localiser: LocaliserConfig = LocaliserConfig()
    matching: Matching  # of instances and segments; metrics/assignment.py
    work: WorkConfig = WorkConfig()  # shards of items and of pictures
    figures: int = Field(ge=0)  # pictures of scenes in the overlays

    @property
    def seeded_learning(self) -> TokenLearningConfig:
        """How items are learned under this seed; pictures of the class are the same for all."""
        train = self.learning.train.model_copy(update={"seed": self.seed})
        return self.learning.model_copy(update={"train": train})
