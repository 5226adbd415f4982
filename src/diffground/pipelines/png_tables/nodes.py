"""Thin nodes: the ablations over rows and seeds, and the figures of what they trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

import numpy as np
from matplotlib.figure import Figure
from PIL import Image

from diffground.png.experiment import OnLog
from diffground.png.figures import draw_attention, draw_predictions, figure_samples
from diffground.png.splits import broken_samples
from diffground.png.tables import PngTablesConfig, full_model, phrase_rows, run_tables
from diffground.png.variant import PngConfig, PngFolders
from diffground.reporting.curves import recall_curves
from diffground.reporting.run_log import code_version
from diffground.reporting.tables import render
from diffground.tracking import get_tracker

log = logging.getLogger(__name__)

THRESHOLDS = np.linspace(0, 1, 101).tolist()  # of the recall curves


def run_png_tables(
    folders: PngFolders,
    diffusion: Path,
    doctor: dict[str, Any],
    features: dict[str, Any],
    png: PngConfig,
    ablation: PngTablesConfig,
) -> tuple[list[dict[str, Any]], str]:
    """The result tables, as data and as text; rows that are finished are not run again."""
    log.info("features cached: %s", features)
    tables = run_tables(
        png,
        ablation,
        folders,
        png.load_backbone(diffusion),
        broken=broken_samples(doctor),
        open_row=_open_row,
        commit=code_version(Path(__file__).parent)["git.commit"],
    )
    text = "\n".join(render(table) for table in tables)
    log.info("%s", text)
    return [table.model_dump(mode="json") for table in tables], text


@contextmanager
def _open_row(name: str, model: dict[str, Any]) -> Iterator[OnLog]:
    """A run of its own, under this one, for a row."""
    with get_tracker().child(name, {"model": model}) as tracker:
        yield tracker.log_metrics


def draw_components(
    folders: PngFolders, diffusion: Path, tables: Any, png: PngConfig, ablation: PngTablesConfig
) -> Figure:
    """Figure 4: recall over the IoU threshold, by row of Table 2 and by group."""
    assert tables, "the tables are made first"
    found = phrase_rows(png, ablation, folders, png.load_backbone(diffusion))
    return recall_curves(
        {name: recall.curve(THRESHOLDS) for name, recall in found.items()},
        THRESHOLDS,
        protocol=png.eval.protocol,
        scale=png.scale,
        averages={name: recall.result() for name, recall in found.items()},
    )


def draw_narratives(
    folders: PngFolders, diffusion: Path, tables: Any, png: PngConfig, ablation: PngTablesConfig
) -> tuple[Image.Image, Image.Image]:
    """Figures 5 and 6: what EIPA's layers attend to, and predictions beside the truth."""
    assert tables, "the tables are made first"
    found = full_model(png, ablation, folders, png.load_backbone(diffusion))
    if found is None or not ablation.figures:
        nothing = Image.new("RGB", (320, 32), "white")  # no row with an adapter was asked for
        return nothing, nothing
    model, config = found
    samples, categories = figure_samples(config, folders, ablation.figures)
    attention = draw_attention(model, samples, categories, config)
    predictions = draw_predictions(model, samples, categories, config)
    return Image.fromarray(attention), Image.fromarray(predictions)
