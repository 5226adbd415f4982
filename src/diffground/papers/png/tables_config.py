"""What the ablations of Li et al. are made of: ``params:png_tables``.

What a row is, and what the paper reports for it, stands in ``paper_tables.json``. A table may be
measured again with nouns that are held out of the training: on a closed vocabulary a decoder can
learn all words itself, and no prompt is needed.
"""

from __future__ import annotations

from pathlib import Path
from typing import ClassVar, Literal

from pydantic import Field, PositiveInt

from diffground.data.config import Nouns
from diffground.experiments.published import PublishedPaper, PublishedRow, TablesConfig
from diffground.experiments.result_tables import Figures
from diffground.papers.png.config import PngConfig

Table = Literal["components", "insertion", "mlma"]


class PngRow(PublishedRow):
    """A row of Tables 2 to 4."""

    paper_unpretrained: Figures = Field(default_factory=dict)  # without panoptic pretraining

    def beside(self, config: PngConfig) -> Figures:
        """At the paper's scale, its figures of the same pretraining.

        The mini world's levels are compared with none, so there the printed table stays as it is.
        The paper holds no nouns out.
        """
        model = config.model
        if config.scale == "paper" and config.splits.held_out:
            return {}
        same = config.scale == "mini" or model.pretrained or not model.decode
        return self.paper if same else self.paper_unpretrained


class PngTablesConfig(TablesConfig):
    """The ablations: ``params:png_tables``. All else is ``params:png``."""

    published: ClassVar = PublishedPaper[PngRow].read(Path(__file__).with_name("paper_tables.json"))

    tables: tuple[Table, ...] = Field(min_length=1)
    seeds: tuple[int, ...] = Field(min_length=1)  # the paper names none
    max_steps: PositiveInt | None  # of each training; None = png.train.max_steps
    figures: int = Field(ge=0)  # narratives in Figures 5 and 6
    # Sets of categories as png.splits.held_out. Those of `tables` that are in `held_out_tables` are
    # measured once more with each set.
    held_out: tuple[Nouns, ...]
    held_out_tables: tuple[Table, ...]
