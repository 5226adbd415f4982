"""Thin nodes: the tables of both papers row by row, and the figure of the filter."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from kedro.pipeline import Node, Pipeline

from diffground.papers.grounded.data_config import GroundingDataConfig
from diffground.papers.grounded.learning_config import LearningConfig, MeasuringConfig
from diffground.papers.grounded.tables_config import GroundedTablesConfig, IosdTablesConfig


def open_grounded_bench(
    *,
    standard: Path,
    fine_tuned: Path,
    version2: Path,
    segmenter: Path,
    clip: Path,
    samples: Path,
    scores: Path,
    features: Path,
    modules: Path,
    measured: Path,
    measuring: MeasuringConfig,
) -> Any:
    """What rows of the third paper are made with; models whose folders there are not are left out,
    and the tables say so."""
    from diffground.papers.grounded.experiment import Bench, existing

    models = existing({"standard": standard, "fine_tuned": fine_tuned, "version2": version2})
    return Bench(models, segmenter, clip, samples, scores, features, modules, measured, measuring)


def open_iosd_bench(
    *,
    standard: Path,
    turbo: Path,
    segmenter: Path,
    clip: Path,
    samples: Path,
    scores: Path,
    features: Path,
    modules: Path,
    measured: Path,
    measuring: MeasuringConfig,
) -> Any:
    """The same of the fourth paper."""
    from diffground.papers.grounded.experiment import Bench, existing

    models = existing({"standard": standard, "turbo": turbo})
    return Bench(models, segmenter, clip, samples, scores, features, modules, measured, measuring)


def run_grounded_tables(
    bench: Any,
    data: GroundingDataConfig,
    learning: LearningConfig,
    tables: GroundedTablesConfig,
) -> tuple[list[dict[str, Any]], str, Any]:
    """The third paper's tables as data and as text, and the filter's figure, of matplotlib;
    finished rows are not run again."""
    from diffground.experiments.runner import as_json_and_text, run_tables
    from diffground.papers.grounded.tables import GroundedTables

    asked = GroundedTables(data, learning, tables, bench)
    found, figure = asked.with_passing(run_tables(asked, tables.seeds))
    return *as_json_and_text(found), figure


def run_iosd_tables(
    bench: Any,
    plain: GroundingDataConfig,
    data: GroundingDataConfig,
    learning: LearningConfig,
    tables: IosdTablesConfig,
) -> tuple[list[dict[str, Any]], str]:
    """The fourth paper's tables as data and as text; finished rows are not run again."""
    from diffground.experiments.runner import as_json_and_text, run_tables
    from diffground.papers.grounded.iosd_tables import IosdTables

    asked = IosdTables(data, plain.generation, learning, tables, bench)
    return as_json_and_text(run_tables(asked, tables.seeds))


def grounded_tables() -> Pipeline:
    """All tables of the third paper that ``params:grounded_tables`` asks for."""
    models = {"fine_tuned": "grounded_fine_tuned", "version2": "grounded_version2"}
    opening = Node(
        open_grounded_bench,
        _bench("grounding", models),
        "grounded_bench",
        name="open_grounded_bench",
    )
    running = Node(
        run_grounded_tables,
        ["grounded_bench", *(f"params:{n}" for n in ("grounding_data", "grounding_train")),
         "params:grounded_tables"],
        ["grounded_tables", "grounded_tables_text", "grounded_filter"],
        name="run_grounded_tables",
    )  # fmt: skip
    return Pipeline([opening, running], tags=["grounded", "grounded_tables"])


def iosd_tables() -> Pipeline:
    """All tables of the fourth paper that ``params:iosd_tables`` asks for."""
    opening = Node(
        open_iosd_bench,
        _bench("iosd", {"turbo": "iosd_turbo"}),
        "iosd_bench",
        name="open_iosd_bench",
    )
    running = Node(
        run_iosd_tables,
        ["iosd_bench", "params:grounding_data", "params:iosd_data", "params:iosd_train",
         "params:iosd_tables"],
        ["iosd_tables", "iosd_tables_text"],
        name="run_iosd_tables",
    )  # fmt: skip
    return Pipeline([opening, running], tags=["grounded", "iosd_tables"])


def _bench(of: str, models: dict[str, str]) -> dict[str, str]:
    """What the rows of an experiment are made with, and where."""
    return {
        "standard": "stable_diffusion",
        **models,
        "segmenter": "grounding_segmenter",
        "clip": "grounding_clip",
        "samples": f"{of}_samples_folder",
        "scores": f"{of}_scores_folder",
        "features": f"{of}_features_folder",
        "modules": f"{of}_models_folder",
        "measured": "grounded_table_scores_folder",
        "measuring": f"params:{of}_eval",
    }
