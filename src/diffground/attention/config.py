"""What is asked of the attention: the settings of class maps, and how queries are written."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, PositiveFloat, PositiveInt

from diffground.config import Compat, Config

#: "daam" is ours, of one time step; "daam_trajectory" is its public code's, summed over many.
Method = Literal["selfcross", "cross", "cross+selfcross", "cbp", "daam", "daam_trajectory"]
Style = Literal["composed", "separate"]

VOC_THRESHOLDS, COCO_THRESHOLDS = (0.2, 0.5), (0.5, 0.35)  # of the box mask, of the background


class AggregationConfig(Config):
    """How class maps are made (002, §3 and §5.1). The defaults are the public code's for VOC.

    A run changes one with ``--params text2mask.attention.<name>=...``.

    ``compat`` decides whatever is None here, and beyond: the query's words and length
    (:mod:`.queries`), the picture that the dense CRF sees (:mod:`diffground.masks.crf`), and which
    pixels are uncertain (:mod:`diffground.masks.uncertainty`).

    - ``official``: images are padded, Cross is min-maxed before it is propagated, a box mask limits
      it, several noises are averaged as maps of the classes, the background is scored of their
      mean, initial masks are enlarged by the nearest pixel.
    - ``paper``: images are rescaled and not padded (§5.1), Cross is propagated as it is and no box
      limits it (eq. 3), the *masks* of several noises are averaged ("we can easily ensemble
      segmentation masks generated from different noises", §5.1): each draw is taken to its own SC,
      background included (§3.2). Votes of labels instead would leave the CRF no scores. Labels are
      decided after the enlarging (§3.2).

    The paper does not say, and the public code decides in either mode: the long side of an image,
    one VAE sample for all draws, kernels of the CRF. Both draw from the VAE's posterior (§3.1).
    """

    compat: Compat = "official"
    method: Method = "selfcross"  # Table 5
    timestep: int = Field(default=150, ge=0, lt=1000)  # 0-based, of the training schedule; §5.1
    # Layers by the papers' numbers; None: the model folder's own table, else 4 to 8 and 11 (§5.1).
    cross_layers: tuple[int, ...] | None = Field(default=None, min_length=1)
    self_layer: int | None = None
    iterations: int = Field(default=2, ge=0)  # of Self in SelfCross; §5.1
    sharpen: PositiveFloat = 1.0  # power of Self's entries, an option of ours; 1 = the paper's
    noises: PositiveInt = 1  # draws that are averaged; 10 for VOC (appendix A)
    noise_batch: PositiveInt | None = None  # draws times prompts per pass; None: all in one
    # Pixels, aimed at (see `preprocess.sizes`); None: the public code's rule, 704 to 1024
    long_side: PositiveInt | None = None
    # None: the dataset's, see `for_dataset`; without a dataset VOC's
    box_threshold: float | None = Field(default=None, ge=0, lt=1)  # of a map's maximum
    # In (2·threshold - max)^power: appendix B.1's 1.0 is twice as much.
    background_threshold: PositiveFloat | None = None
    background_power: PositiveFloat = 2.0  # appendix B.1

    @property
    def averages_masks(self) -> bool:
        """Whether several draws are averaged as masks, else as maps of the classes."""
        return self.compat == "paper" and self.noises > 1

    @property
    def thresholds(self) -> tuple[float, float]:
        """Of the box mask and of the background."""
        box, background = VOC_THRESHOLDS
        return (
            box if self.box_threshold is None else self.box_threshold,
            background if self.background_threshold is None else self.background_threshold,
        )

    def for_dataset(self, dataset: str) -> AggregationConfig:
        """The same with the thresholds of a dataset: the public code has others for COCO."""
        box, background = self.thresholds
        if self.compat == "official" and dataset == "coco2014":
            box = COCO_THRESHOLDS[0] if self.box_threshold is None else box
            background = COCO_THRESHOLDS[1] if self.background_threshold is None else background
        return self.model_copy(update={"box_threshold": box, "background_threshold": background})
