"""What the tables and figures of From Text to Mask (002) are made of: ``params:text2mask_tables``.

What a row is, and what the paper reports for it, stands in ``paper_tables.json``.
"""

from __future__ import annotations

import json
from collections.abc import Iterator
from importlib.resources import files
from pathlib import Path
from typing import Any, Literal

from pydantic import Field, PositiveFloat, PositiveInt, model_validator

from diffground.config import Config
from diffground.data.image_lists import Source

TableName = Literal["noises", "trainaug", "segmenter", "attention", "prompts", "seeds", "sweeps"]
SweepName = Literal["timestep", "cross_layers", "self_layer", "background", "noises"]


class CocoConfig(Config):
    """The rows of COCO 2014 in Tables 2 and 4."""

    train: Source
    val: Source
    change: dict[str, Any] = Field(default_factory=dict)  # of params:text2mask, section by section
    # A ResNet that learnt from COCO's true masks; null = one is trained here
    pretrained: Path | None = None


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


class Text2MaskTablesConfig(Config):
    """The tables: ``params:text2mask_tables``. All else is ``params:text2mask``."""

    tables: tuple[TableName, ...] = Field(min_length=1)
    train: Source  # of Tables 1, 5, 6, B.8 and the figures
    coco: CocoConfig | None = None  # null leaves COCO's rows out
    seeds: tuple[int, ...] = Field(min_length=1)
    sweeps: SweepConfig = SweepConfig()
    rows: tuple[str, ...] | None  # names of rows to run; null = all (not of the sweeps)
    bins: PositiveInt  # points of Figure D.9 into which images are averaged

    @model_validator(mode="after")
    def _rows_exist(self) -> Text2MaskTablesConfig:
        known = {row["name"] for name in self.tables for row in published(name).get("rows", ())}
        if unknown := set(self.rows or ()) - known:
            raise ValueError(f"no row {sorted(unknown)} in these tables; there are {sorted(known)}")
        return self


def published(name: str) -> dict[str, Any]:
    """A table of the paper: title, note, columns, rows (name, change, paper) and claims."""
    table: dict[str, Any] = paper_figures()["tables"][name]
    return table


def paper_figures() -> dict[str, Any]:
    """The whole file: ``"source"``, ``"paper"``, ``"tables"``."""
    text = files("diffground.papers.text2mask").joinpath("paper_tables.json").read_text("utf-8")
    content: dict[str, Any] = json.loads(text)
    return content
