"""What the tables and figures of From Text to Mask (002) are made of: ``params:text2mask_tables``.

What a row is, and what the paper reports for it, stands in ``paper_tables.json``.
"""

from __future__ import annotations

from collections.abc import Iterator
from itertools import groupby
from operator import itemgetter
from pathlib import Path
from typing import Any, ClassVar, Literal

from pydantic import Field, PositiveFloat, PositiveInt

from diffground.config import Config
from diffground.data.image_lists import Source
from diffground.experiments.published import (
    PublishedPaper,
    PublishedRow,
    PublishedTable,
    TablesConfig,
)

TableName = Literal["noises", "trainaug", "segmenter", "attention", "prompts", "seeds", "sweeps"]
SweepName = Literal["timestep", "cross_layers", "self_layer", "background", "noises"]

ONE_NOISE: dict[str, Any] = {"attention": {"noises": 1}}  # the recipe of most tables


class CocoConfig(Config):
    """The rows of COCO 2014 in Tables 2 and 4."""

    train: Source
    val: Source
    change: dict[str, Any] = Field(default_factory=dict)  # of params:text2mask, section by section
    # A ResNet that learnt from COCO's true masks; null = one is trained here
    pretrained: Path | None = None

    def changes(self) -> tuple[dict[str, Any], dict[str, Any]]:
        """Of the experiment, which is then one on COCO."""
        return self.change, {"source": self.train, "val": self.val}


class SweepConfig(Config):
    """The values of Figure B.8's curves; an empty list leaves a curve out."""

    timestep: tuple[int, ...] = ()
    cross_layers: tuple[tuple[int, ...], ...] = ()
    self_layer: tuple[int, ...] = ()
    thresholds: tuple[PositiveFloat, ...] = ()  # of the background, with every power
    powers: tuple[PositiveFloat, ...] = ()
    noises: tuple[PositiveInt, ...] = ()

    def points(self) -> Iterator[tuple[SweepName, str, dict[str, Any]]]:
        """``(curve, name of the point, change of the attention's settings)``."""
        for step in self.timestep:
            yield "timestep", f"time step {step}", {"timestep": step}
        for layers in self.cross_layers:
            name = ", ".join(map(str, layers))
            yield "cross_layers", f"cross layers {name}", {"cross_layers": layers}
        for layer in self.self_layer:
            yield "self_layer", f"self layer {layer}", {"self_layer": layer}
        for power in self.powers if self.thresholds else ():
            for threshold in self.thresholds:
                # The paper's 1.0 is twice the parameter: (2 threshold - max) ^ power.
                name = f"power {power:g}, threshold {2 * threshold:g}"
                change = {"background_threshold": threshold, "background_power": power}
                yield "background", name, change
        for count in self.noises:
            name = f"{count} noise" if count == 1 else f"{count} noises"
            yield "noises", name, {"noises": count}


class Text2MaskRow(PublishedRow):
    """A row of the tables."""

    # What is measured: Table 1's images, those that the experiment labels, or those it is judged on
    split: Literal["train", "source", "val", "coco", "coco val"] = "train"
    segmenter: bool = False  # that which learnt from the experiment's masks; else masks are
    start: Literal["coco"] | None = None  # of the segmenter: its ResNet learnt COCO's true masks
    own: bool = False  # ours, and left out where it is the recipe itself

    @property
    def on_coco(self) -> bool:
        """Whether the experiment is one on COCO 2014."""
        return self.split.startswith("coco")

    @property
    def part(self) -> str:
        """What of the experiment is measured."""
        return f"{self.split} {self.segmenter} {self.start}"


class Text2MaskTablesConfig(TablesConfig):
    """The tables: ``params:text2mask_tables``. All else is ``params:text2mask``."""

    published: ClassVar = PublishedPaper[Text2MaskRow].read(
        Path(__file__).with_name("paper_tables.json")
    )

    tables: tuple[TableName, ...] = Field(min_length=1)
    train: Source  # of Tables 1, 5, 6, B.8 and the figures
    coco: CocoConfig | None = None  # null leaves COCO's rows out
    seeds: tuple[int, ...] = Field(min_length=1)
    sweeps: SweepConfig = SweepConfig()  # `rows` names none of theirs
    bins: PositiveInt  # points of Figure D.9 into which images are averaged

    def each(self) -> Iterator[tuple[str, PublishedTable[Text2MaskRow]]]:
        """The tables by name; Figure B.8 is a table for every curve."""
        for name in self.tables:
            table = self.table(name)
            if name == "seeds":
                yield name, self._with_seeds(table)
            elif name == "sweeps":
                yield from ((name, curve) for curve in self._curves(table))
            else:
                with_coco = self.coco is not None
                rows = (row for row in table.rows if with_coco or not (row.on_coco or row.start))
                yield name, table.of(rows)

    def _with_seeds(self, table: PublishedTable[Text2MaskRow]) -> PublishedTable[Text2MaskRow]:
        known = {row.change["seed"]: row for row in table.rows}
        rows = [
            known.get(seed) or Text2MaskRow(name=f"seed {seed}", change={**ONE_NOISE, "seed": seed})
            for seed in self.seeds
        ]
        return table.of(rows, **({} if known.keys() == {*self.seeds} else {"average": {}}))

    def _curves(
        self, table: PublishedTable[Text2MaskRow]
    ) -> Iterator[PublishedTable[Text2MaskRow]]:
        for curve, points in groupby(self.sweeps.points(), key=itemgetter(0)):
            rows = (
                Text2MaskRow(name=name, change={"attention": {"noises": 1, **change}})
                for _, name, change in points
            )
            yield table.of(rows, table=f"{table.table}: {curve}")
