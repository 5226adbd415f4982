"""Thin nodes: the tables row by row, and the figures of what they measured."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import TYPE_CHECKING, Any

from PIL import Image

from diffground.adapters.run_log import numbers
from diffground.experiments.result_tables import render
from diffground.papers.text2mask.config import Text2MaskConfig, Text2MaskFolders
from diffground.papers.text2mask.tables_config import Text2MaskTablesConfig
from diffground.pipelines.pseudo_labels.nodes import mask_figures
from diffground.pipelines.segmenter_train.nodes import segmenter_figures
from diffground.tracking import Tracker, get_tracker

if TYPE_CHECKING:
    from diffground.papers.text2mask.keys import Split

log = logging.getLogger(__name__)


def run_text2mask_tables(
    folders: Text2MaskFolders,
    diffusion: Path,
    text2mask: Text2MaskConfig,
    tables: Text2MaskTablesConfig,
) -> tuple[list[dict[str, Any]], str, Any, Any]:
    """The tables as data and as text, and Figures B.8 and D.9, of matplotlib; finished rows are not
    run again.
    """
    from diffground.papers.text2mask.figures import sweep_curves
    from diffground.papers.text2mask.keys import Frozen
    from diffground.papers.text2mask.similarity import (
        class_similarities,
        correlation,
        similarity_figure,
        similarity_table,
    )
    from diffground.papers.text2mask.table_rows import Bench
    from diffground.papers.text2mask.tables import run_tables

    frozen = Frozen(diffusion, text2mask)
    open_row = _open_row if get_tracker().keeps else None
    bench = Bench(text2mask, tables, folders, frozen, open_row)
    found = run_tables(bench)
    split = bench.recipe()
    points = class_similarities(split, frozen)
    lines, groups = correlation(points, tables.bins)
    found.append(similarity_table(split, lines))
    text = "\n".join(render(table) for table in found)
    log.info("%s", text)
    data = [table.model_dump(mode="json") for table in found]
    scatter = similarity_figure(points, groups, lines, text2mask.scale)
    return data, text, sweep_curves(found), scatter


@dataclass(frozen=True)
class _Row:
    """Logs one row as the pipelines pseudo_labels and segmenter_train log a run."""

    tracker: Tracker
    config: Text2MaskConfig

    def log_metrics(self, values: dict[str, float], step: int) -> None:
        self.tracker.log_metrics(values, step)

    def log_masks(self, split: Split, result: dict[str, Any]) -> None:
        from diffground.papers.text2mask.figures import mask_sheet

        self.tracker.log_metrics(mask_figures(result))
        with TemporaryDirectory() as folder:
            file = Path(folder) / "text2mask_figure4.png"
            Image.fromarray(mask_sheet(split, self.config.figures)).save(file)
            self.tracker.log_artifact(file, "reporting")

    def log_segmenter(self, split: Split, result: dict[str, Any]) -> None:
        figures = numbers(result, "text2mask_segmenter_metrics")
        self.tracker.log_metrics(figures | segmenter_figures(result))


@contextmanager
def _open_row(name: str, config: Text2MaskConfig) -> Iterator[_Row]:
    """A run of its own, under this one, for a row."""
    with get_tracker().child(name, {"text2mask": config}) as tracker:
        yield _Row(tracker, config)
