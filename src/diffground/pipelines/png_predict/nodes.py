"""The thin node of prediction."""

from __future__ import annotations

from pathlib import Path

from diffground.png.experiment import load_variant
from diffground.png.predict import PredictConfig, predict
from diffground.png.variant import PngConfig, PngFolders


def predict_png(
    folders: PngFolders, diffusion: Path, png: PngConfig, png_predict: PredictConfig, folder: Path
) -> Path:
    """Masks of the narrative's phrases, by the model that was trained with these settings."""
    backbone = png.load_backbone(diffusion)
    model, variant = load_variant(png, folders, backbone)
    return predict(model, variant.name, png, png_predict, folders.coco, folder)
