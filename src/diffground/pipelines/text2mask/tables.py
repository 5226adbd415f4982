"""Thin nodes: the tables row by row, and the figures of what they measured."""

from __future__ import annotations

from pathlib import Path
from typing import Any

from diffground.papers.text2mask.config import Text2MaskConfig
from diffground.papers.text2mask.tables_config import Text2MaskTablesConfig


def run_text2mask_tables(
    *,
    voc2012: Path,
    coco2014: Path,
    images: Path,
    maps: Path,
    masks: Path,
    models: Path,
    diffusion: Path,
    text2mask: Text2MaskConfig,
    tables: Text2MaskTablesConfig,
) -> tuple[Path, list[dict[str, Any]], str, Any, Any]:
    """The rows' segmenters, the tables as data and as text, and Figures B.8 and D.9, of matplotlib;
    finished rows are not run again.
    """
    from diffground.backbone.on_demand import Frozen
    from diffground.experiments.runner import as_json_and_text, run_tables
    from diffground.papers.text2mask import similarity
    from diffground.papers.text2mask.figures import sweep_curves
    from diffground.papers.text2mask.tables import Text2MaskTables

    data = {"voc2012": voc2012, "coco2014": coco2014, "folder": images}
    frozen = Frozen(diffusion, text2mask)
    asked = Text2MaskTables(text2mask, tables, frozen, data, maps, masks, models)
    found = run_tables(asked)
    split = asked.recipe()
    points = similarity.class_similarities(split, frozen)
    lines, groups = similarity.correlation(points, tables.bins)
    found.append(similarity.similarity_table(split, lines))
    scatter = similarity.similarity_figure(points, groups, lines, text2mask.scale)
    models.mkdir(parents=True, exist_ok=True)  # no segmenter may have been asked for
    return models, *as_json_and_text(found), sweep_curves(found), scatter
