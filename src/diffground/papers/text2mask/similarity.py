"""Figure D.9 of From Text to Mask (002): images whose classes are alike are segmented worse.

The paper's appendix D gives r = -0.73 and p = 0.0049. That p belongs to about 13 points, so its
points are not images (more than 500 of VOC's train split have several classes) but means over many;
how they are grouped is not said. Here both are computed, over images and over groups of nearly
equal size.
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from itertools import combinations

import numpy as np
import torch
from matplotlib.figure import Figure
from scipy.stats import linregress
from torch.nn import functional

from diffground.backbone.on_demand import Frozen
from diffground.backbone.text import phrase_means
from diffground.data.labelled_images import LabelledImage
from diffground.errors import InputError
from diffground.experiments.result_tables import ResultTable, measured_row
from diffground.experiments.runner import Heading
from diffground.io.labels import read_labels
from diffground.masks.mask_files import mask_path
from diffground.metrics.miou import Confusion
from diffground.papers.text2mask.keys import Split
from diffground.papers.text2mask.tables_config import Text2MaskTablesConfig
from diffground.papers.text2mask.text_to_mask import TextToMask
from diffground.reporting.scale import SCALE_WORDS, Scale

Lines = dict[str, dict[str, float]]


@dataclass(frozen=True)
class Similarity:
    """One image of Figure D.9."""

    id: str
    similarity: float  # mean cosine between the text embeddings of its classes
    miou: float  # percent, of the classes in the image and the background


@torch.no_grad()
def class_similarities(split: Split, frozen: Frozen) -> list[Similarity]:
    """How alike the classes of each image are to the text encoder, and its mIoU (appendix D).

    Of images with two classes or more. A class's embedding is the mean over its tokens in a query
    for it alone, without background words; the paper does not say which it takes.
    """
    alone = split.method.query.model_copy(update={"background": False})
    method = split.method.model_copy(update={"query": alone})
    segmenter = TextToMask(frozen.model, method, split.words)
    names = sorted({name for sample in split.samples for name in sample.classes})
    prompts = [segmenter.prompts([name])[0] for name in names]
    encoding = frozen.model.encode_prompts([prompt.text for prompt in prompts])
    spans = [list(prompt.phrases[0].spans) for prompt in prompts]
    means, real = phrase_means(encoding, spans)  # (class, synonym, C)
    vectors = (means * real[..., None]).sum(1) / real.sum(1, keepdim=True)
    unit = dict(zip(names, functional.normalize(vectors.float(), dim=-1), strict=True))
    found = []
    for sample, miou in _image_scores(split):
        pairs = [float(unit[a] @ unit[b]) for a, b in combinations(sample.classes, 2)]
        found.append(Similarity(sample.id, sum(pairs) / len(pairs), miou))
    return found


def _image_scores(split: Split) -> Iterator[tuple[LabelledImage, float]]:
    """Every image of two classes or more with its mIoU after the CRF."""
    for sample in split.samples:
        if len(sample.classes) < 2:
            continue
        try:
            prediction = read_labels(mask_path(split.masks, sample.id, "label"))
            truth = sample.load_mask(prediction.shape)
            confusion = Confusion(split.classes)
            confusion.update(prediction, truth)
        except (InputError, ValueError):
            continue  # reported by `measure`
        miou = confusion.result()["miou"]
        if miou is not None:  # every pixel of the truth is 255
            yield sample, miou


def correlation(points: Sequence[Similarity], bins: int) -> tuple[Lines, list[tuple[float, float]]]:
    """r and p of a straight line, over all images and over means of images that are alike.

    Args:
        bins: groups of nearly equal size, by similarity; fewer if there are fewer images.

    Returns:
        ``{"images": {"r", "p", "slope", "points"}, "groups": ...}``, a part left out that has less
        than three points or no spread; and the groups' ``(similarity, mIoU)``.
    """
    ordered = sorted(points, key=lambda point: (point.similarity, point.id))
    pairs = np.array([(point.similarity, point.miou) for point in ordered]).reshape(-1, 2)
    parts = np.array_split(pairs, min(bins, len(pairs))) if len(pairs) else []
    groups = np.array([part.mean(axis=0) for part in parts]).reshape(-1, 2)
    found: Lines = {}
    for name, values in (("images", pairs), ("groups", groups)):
        if len(values) >= 3 and np.ptp(values, axis=0).all():
            line = linregress(values[:, 0], values[:, 1])
            found[name] = {
                "r": float(line.rvalue),
                "p": float(line.pvalue),
                "slope": float(line.slope),
                "points": float(len(values)),
            }
    return found, [(float(x), float(y)) for x, y in groups]


def similarity_table(split: Split, lines: Lines) -> ResultTable:
    """r and p beside the paper's."""
    published = Text2MaskTablesConfig.published
    table = published.tables["similarity"]
    rows = [
        measured_row(
            f"{line['points']:.0f} {row.name}",
            [{column: line[column] for column in table.columns}],
            row.paper,
            split.made(),
        )
        for row in table.rows
        if (line := lines.get(row.name))
    ]
    heading = Heading(
        published=published,
        name="text2mask",
        metric="Pearson's r, and p of no slope",
        scale=split.config.scale,
        settings={"text2mask": split.config.model_dump(mode="json")},
    )
    return heading.table(table, rows)


def similarity_figure(
    points: Sequence[Similarity],
    groups: Sequence[tuple[float, float]],
    lines: Lines,
    scale: Scale,
) -> Figure:
    """The scatter of images, and of the groups with their straight line."""
    figure = Figure(figsize=(5.6, 4.2), layout="constrained")
    axis = figure.subplots()
    xs, ys = [point.similarity for point in points], [point.miou for point in points]
    axis.plot(xs, ys, "o", color="0.7", markersize=3, label=_label("images", lines))
    if groups:
        table = np.array(groups)
        axis.plot(table[:, 0], table[:, 1], "o", color="C0", label=_label("groups", lines))
        if line := lines.get("groups"):
            fitted = table[:, 1].mean() + line["slope"] * (table[:, 0] - table[:, 0].mean())
            axis.plot(table[:, 0], fitted, color="C0", linewidth=1.5)
    axis.set_xlabel("mean cosine between the text embeddings of an image's classes")
    axis.set_ylabel("mIoU of the image (%)")
    axis.set_title(SCALE_WORDS[scale], fontsize=11)
    axis.grid(alpha=0.25)
    axis.legend(fontsize=8)
    return figure


def _label(name: str, lines: Lines) -> str:
    line = lines.get(name)
    return f"{name}: r = {line['r']:.2f}, p = {line['p']:.2g}" if line else name
