"""Figures 5 and 6 of Li et al. (section 4.5), for a few narratives of the validation split."""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image

from diffground.data.png_benchmark import PngSample, load_image, load_targets
from diffground.papers.png.config import PngConfig
from diffground.papers.png.evaluate import Prediction, compare, evaluate
from diffground.papers.png.experiment import read_validation
from diffground.papers.png.model import PngModel
from diffground.papers.png.narratives import PngDataset, collate
from diffground.reporting.attention_layers import LayerRow, attention_layers
from diffground.reporting.overlays import side_by_side
from diffground.reporting.scale import SCALE_WORDS, Scale

PAPER_LAYERS = (3, 5, 12)  # the adapters that the paper shows, counted from 1


def figure_samples(config: PngConfig, coco: Path, number: int) -> PngDataset:
    """The narratives with the most phrases among the evaluated ones, one per image."""
    read = read_validation(config, coco)
    chosen: dict[int, PngSample] = {}
    for sample in sorted(read.samples, key=lambda sample: (-len(sample.phrases), sample.row)):
        chosen.setdefault(sample.image_id, sample)
    return PngDataset(list(chosen.values())[:number], read.categories, config.data)


@torch.no_grad()
def draw_attention(model: PngModel, dataset: PngDataset, scale: Scale) -> NDArray[np.uint8]:
    """Figure 5: which phrase each pixel attends to in the adapters that the paper shows.

    Adapters that the model lacks are replaced by its last; an own column shows that one.
    """
    assert model.eipa is not None, "the figure is about the adapter's layers"
    last = len(model.eipa.sites)
    layers = sorted({min(layer, last) for layer in (*PAPER_LAYERS, last)})
    rows = []
    for index, sample in enumerate(dataset.samples):
        outputs = model(collate([dataset[index]]).to(model.backbone.device))
        # A phrase that a truncated caption lost must win no pixel.
        kept = outputs.valid[0].nonzero().flatten().tolist()
        named = []
        for layer in layers:
            score = outputs.scores[layer - 1][0, kept].float().cpu().numpy()
            height, width = score.shape[-2:]
            named.append((f"L = {layer}, {height} x {width}", score))
        rows.append(
            LayerRow(
                load_image(sample),
                sample.caption,
                tuple(sample.spans[index] for index in kept),
                named,
                load_targets(sample)[kept],
            )
        )
    return attention_layers(rows, scale=scale)


def draw_predictions(model: PngModel, dataset: PngDataset, config: PngConfig) -> Image.Image:
    """Figure 6: predictions beside the ground truth, differing areas in dashed boxes."""
    rule = config.eval.model_copy(update={"overlays": len(dataset), "limit": None})
    return draw_comparison(evaluate(model, dataset, rule).predictions, config)


def draw_comparison(predictions: Sequence[Prediction], config: PngConfig) -> Image.Image:
    """Narratives with truth and prediction, at which scale and what the numbers are."""
    if not predictions:
        return Image.new("RGB", (320, 32), "white")  # none were asked for, or all were broken
    page = side_by_side(
        [compare(prediction, config.model.threshold) for prediction in predictions],
        differences=True,
        heading=f"{SCALE_WORDS[config.scale].capitalize()}: predictions beside the ground truth.",
        footnote=f"Numbers: IoU, protocol {config.eval.protocol}.",
    )
    return Image.fromarray(page)
