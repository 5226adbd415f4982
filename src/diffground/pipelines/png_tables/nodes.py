"""Thin nodes: the ablations over rows and seeds, and the figures of what they trained."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

import numpy as np
from PIL import Image

from diffground.adapters.run_log import numbers
from diffground.experiments.result_tables import render
from diffground.papers.png.config import PngConfig, PngFolders
from diffground.papers.png.tables_config import PngTablesConfig
from diffground.pipelines.png_eval.nodes import draw_overlays, draw_recall_curve
from diffground.tracking import Tracker, get_tracker

if TYPE_CHECKING:
    from diffground.papers.png.evaluate import Prediction

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
    from diffground.data.png_reading import broken_samples
    from diffground.papers.png.tables import run_tables

    log.info("features cached: %s", features)
    tables = run_tables(
        png,
        ablation,
        folders,
        png.load_backbone(diffusion),
        broken=broken_samples(doctor),
        open_row=_open_row if get_tracker().keeps else None,
    )
    text = "\n".join(render(table) for table in tables)
    log.info("%s", text)
    return [table.model_dump(mode="json") for table in tables], text


@dataclass(frozen=True)
class _Row:
    """Logs one row and seed as the pipeline png_train logs a run: names, figures and all."""

    tracker: Tracker
    config: PngConfig

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.tracker.log_metrics(values, step)

    def log_results(
        self,
        training: dict[str, Any],
        metrics: dict[str, Any],
        phrases: list[dict[str, Any]],
        predictions: list[Prediction],
    ) -> None:
        found = numbers(training, "png_training") | numbers(metrics, "png_metrics")
        self.tracker.log_metrics(found)
        self.tracker.log_dict(metrics, "reporting/png_metrics.json")
        rule = {key: metrics[key] for key in ("protocol", "plural_rule")}
        with TemporaryDirectory() as folder:
            curve = Path(folder) / "png_recall_curve.png"
            draw_recall_curve({"rows": phrases, **rule}, metrics).savefig(curve, dpi=120)
            self.tracker.log_artifact(curve, "reporting")
            if predictions:
                overlays = Path(folder) / "png_overlays.png"
                draw_overlays(predictions, self.config).save(overlays)
                self.tracker.log_artifact(overlays, "reporting")


@contextmanager
def _open_row(name: str, config: PngConfig) -> Iterator[_Row]:
    """A run of its own, under this one, for a row and seed."""
    with get_tracker().child(name, {"png": config}) as tracker:
        yield _Row(tracker, config)


def draw_components(
    folders: PngFolders, diffusion: Path, tables: Any, png: PngConfig, ablation: PngTablesConfig
) -> Any:
    """Figure 4, of matplotlib: recall over the IoU threshold, by row of Table 2 and by group."""
    from diffground.papers.png.tables import phrase_rows
    from diffground.reporting.curves import recall_curves

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
    from diffground.papers.png.figures import draw_attention, draw_predictions, figure_samples
    from diffground.papers.png.tables import full_model

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
