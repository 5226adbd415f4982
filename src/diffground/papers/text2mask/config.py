"""What one Text2Mask experiment is: its settings, from query to segmenter."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self

from pydantic import Field, NonNegativeFloat, PositiveInt, field_validator

from diffground.attention.config import AggregationConfig, Style
from diffground.config import NOT_IN_KEY, AutoDevice, Compat, Config
from diffground.data.image_lists import CocoSource, FolderSource, Source, VocSource
from diffground.io.files import load_config
from diffground.masks.crf import CrfConfig
from diffground.masks.mask_files import MaskConfig
from diffground.segmenters.config import SemanticConfig
from diffground.store.config import WorkConfig

RECIPE_FILE = "diffground_text2mask.json"  # in a model folder: the settings that suit the model

AnySource = VocSource | CocoSource | FolderSource


class QueryConfig(Config):
    """How classes become prompts (002, §3.3, §5.2)."""

    style: Style = "composed"  # one sentence for all classes, or one each; Table 6
    background: bool = True  # names what may surround them as well
    synonyms: bool = True  # the vocabulary's richer names
    # How a sentence begins; None: as the vocabulary says, "a photo including" (§3.3).
    lead: str | None = None


class TextToMaskConfig(Config):
    """The method: queries, attention, and the dense CRF (None leaves it out)."""

    query: QueryConfig = QueryConfig()
    attention: AggregationConfig = AggregationConfig()
    crf: CrfConfig | None = CrfConfig()
    # Classes with a lower presence score (see diffground.attention.presence) are doubtful, which is
    # said; 0: none is. At 1 a class attracts the image no more than "a photo of a" does.
    doubt_below: NonNegativeFloat = 1.0

    @classmethod
    def of(cls, folder: str | Path) -> Self:
        """The settings in the model folder's ``diffground_text2mask.json``, else the defaults.

        The mini model has such a file: it is smaller than what the defaults, those of the public
        code for SD 1.4, are meant for. Raises InputError for a file that says anything else.
        """
        file = Path(folder) / RECIPE_FILE
        if not file.exists():
            return cls()
        return load_config(cls, file, "settings")


class Text2MaskConfig(Config):
    """A whole experiment: ``params:text2mask``."""

    scale: Literal["mini", "paper"]  # said beside every number
    device: AutoDevice  # auto = the GPU if there is one
    precision: Literal["float32", "bfloat16", "float16"]  # of the frozen model
    compile: Annotated[bool, NOT_IN_KEY]  # its residual blocks: minutes at first, then faster
    # "voc", "coco", "mini" or a JSON file; null: the names in the CSV of a folder source
    vocabulary: str | None
    seed: int  # of noises and VAE, with the image's id
    source: Source  # what pseudo masks are made of, and what the segmenter learns from
    val: Source | None  # what the segmenter is judged on
    test: Source | None  # what it labels for an evaluation server, without ground truth
    limit: PositiveInt | None  # lines of each list that are looked at; null = all
    query: QueryConfig = QueryConfig()
    attention: AggregationConfig
    masks: MaskConfig = MaskConfig()
    work: WorkConfig
    segmenter: SemanticConfig | None  # null = none is trained
    # The masks of `source` that it learns from; "truth" is the bound that pseudo masks aim at.
    supervision: Literal["pseudo", "truth"]
    figures: int = Field(ge=0)  # images in Figure 4

    @field_validator("source", "val", "test", mode="before")
    @classmethod
    def _nothing_is_no_field(cls, content: Any) -> Any:
        """``split: null`` takes a field away, which parameters that are laid over others cannot."""
        if not isinstance(content, dict):
            return content
        return {name: value for name, value in content.items() if value is not None}

    @property
    def compat(self) -> Compat:
        """The one switch between paper and public code, of attention, CRF and uncertainty."""
        return self.attention.compat

    def sources(self) -> tuple[AnySource, ...]:
        """The splits of which maps and masks are made: validation's as a yardstick."""
        return (self.source,) if self.val is None else (self.source, self.val)
