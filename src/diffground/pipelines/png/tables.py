"""Thin nodes: the ablations over rows and seeds, and the figures of what they trained."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

from PIL import Image

from diffground.papers.png.config import PngConfig, PngFolders
from diffground.papers.png.tables_config import PngTablesConfig

if TYPE_CHECKING:
    from diffground.papers.png.tables import PngAblations


def run_png_tables(
    *,
    coco: Path,
    diffusion: Path,
    doctor: dict[str, Any],
    features: dict[str, Path],
    findings: Path,
    panoptic: Path,
    models: Path,
    png: PngConfig,
    ablation: PngTablesConfig,
) -> tuple[Path, list[dict[str, Any]], str]:
    """The rows' models, and the result tables as data and as text; rows that are finished are not
    run again.
    """
    from diffground.data.png_reading import broken_samples
    from diffground.experiments.runner import as_json_and_text, run_tables

    folders = PngFolders(coco, models, features["train"].parent, findings, panoptic)
    ablations = _ablations(folders, diffusion, png, ablation, broken_samples(doctor))
    return models, *as_json_and_text(run_tables(ablations, ablation.seeds))


def draw_figures(
    coco: Path,
    diffusion: Path,
    models: Path,
    findings: Path,
    panoptic: Path,
    png: PngConfig,
    ablation: PngTablesConfig,
) -> tuple[Any, Image.Image, Image.Image]:
    """Figures 4 to 6: recall by row (of matplotlib), what EIPA's layers attend to, and predictions
    beside the truth.
    """
    from diffground.papers.png import figures
    from diffground.reporting.curves import recall_curves

    folders = PngFolders(coco, models, doctor=findings, panoptic=panoptic)
    ablations = _ablations(folders, diffusion, png, ablation)
    recall = recall_curves(ablations.recalls(), png.scale)
    found = ablations.full_model()
    if found is None or not ablation.figures:
        nothing = Image.new("RGB", (320, 32), "white")  # no row with an adapter was asked for
        return recall, nothing, nothing
    model, config = found
    chosen = figures.figure_samples(config, coco, ablation.figures)
    attention = figures.draw_attention(model, chosen, config.scale)
    return recall, Image.fromarray(attention), figures.draw_predictions(model, chosen, config)


def _ablations(
    folders: PngFolders,
    diffusion: Path,
    png: PngConfig,
    ablation: PngTablesConfig,
    broken: frozenset[str] = frozenset(),
) -> PngAblations:
    from diffground.papers.png.tables import PngAblations

    return PngAblations(png, ablation, folders, png.load_backbone(diffusion), broken)
