"""The thin node of prediction."""

from __future__ import annotations

from pathlib import Path

from diffground.papers.png.config import PngConfig, PngFolders, PredictConfig


def predict_png(
    folders: PngFolders, diffusion: Path, png: PngConfig, png_predict: PredictConfig, folder: Path
) -> Path:
    """Masks of the narrative's phrases, by the model that is named or has these settings."""
    from diffground.papers.png.predict import predict
    from diffground.papers.png.trained import load_checkpoint, load_variant

    backbone = png.load_backbone(diffusion)
    if png_predict.model is None:
        model, variant = load_variant(png, folders, backbone)
        name = variant.name
    else:
        model, name = load_checkpoint(png, folders, backbone, png_predict.model)
    return predict(model, name, png, png_predict, folders.coco, folder)
