"""Thin nodes: the tables row by row, and the figures of what they measured."""

from __future__ import annotations

import logging
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from matplotlib.figure import Figure

from diffground.reporting.run_log import code_version
from diffground.reporting.tables import render
from diffground.text2mask.bench import Bench
from diffground.text2mask.figures import sweep_curves
from diffground.text2mask.similarity import (
    class_similarities,
    correlation,
    similarity_figure,
    similarity_table,
)
from diffground.text2mask.tables import run_tables
from diffground.text2mask.tables_config import Text2MaskTablesConfig
from diffground.text2mask.training import OnLog
from diffground.text2mask.variant import Frozen, Text2MaskConfig, Text2MaskFolders
from diffground.tracking import get_tracker

log = logging.getLogger(__name__)


def run_text2mask_tables(
    folders: Text2MaskFolders,
    diffusion: Path,
    text2mask: Text2MaskConfig,
    tables: Text2MaskTablesConfig,
) -> tuple[list[dict[str, Any]], str, Figure, Figure]:
    """The tables as data and as text, and Figures B.8 and D.9; finished rows are not run again."""
    commit = code_version(Path(__file__).parent)["git.commit"]
    frozen = Frozen(diffusion, text2mask)
    bench = Bench(text2mask, tables, folders, frozen, _open_row, commit)
    found = run_tables(bench)
    split = bench.recipe()
    points = class_similarities(split, frozen)
    lines, groups = correlation(points, tables.bins)
    found.append(similarity_table(split, lines, commit))
    text = "\n".join(render(table) for table in found)
    log.info("%s", text)
    data = [table.model_dump(mode="json") for table in found]
    scatter = similarity_figure(points, groups, lines, text2mask.scale)
    return data, text, sweep_curves(found), scatter


@contextmanager
def _open_row(name: str, change: dict[str, Any]) -> Iterator[OnLog]:
    """A run of its own, under this one, for a row."""
    with get_tracker().child(name, {"change": change}) as tracker:
        yield tracker.log_metrics
