"""Pictures of what is in the datasets, for the catalog's documentation (``make pictures``)."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray
from PIL import Image

from diffground.errors import ProblemReport
from diffground.reporting.overlays import Comparison, overlay, side_by_side

SHOWN = 3  # samples of a dataset
_PANEL = 256  # width of a narrative's picture, pixels
_SCENE = 160  # least height of another, pixels
_GAP = 12

RGB = NDArray[np.uint8]


def coco(folder: Path) -> RGB:
    """Narratives, and the segments of their phrases."""
    from diffground.data.png_benchmark import PngBenchmark, load_image, load_targets

    samples, _ = PngBenchmark(folder, "val2017").read(limit=SHOWN - 1)
    rows = [
        Comparison(load_image(each), each.caption, each.spans, {"segments": load_targets(each)})
        for each in samples
    ]
    return side_by_side(rows, panel=_PANEL)


def voc2012(folder: Path) -> RGB:
    """Images, and their classes."""
    from diffground.data.image_lists import VocSource

    return _labelled(folder / "VOCdevkit/VOC2012", VocSource(split="val"))


def coco2014(folder: Path) -> RGB:
    """Images, and their classes."""
    from diffground.data.image_lists import CocoSource

    return _labelled(folder / "COCO2014", CocoSource(split="val"))


def mug19(folder: Path) -> RGB:
    """Pictures of an item, and the scene of the first triplet that asks for it."""
    from diffground.data.mug19 import Mug19
    from diffground.io.images import read_image

    data = Mug19.read(folder)
    triplet = data.of_split("semantic_distractor")[0]
    photos = data.items[triplet.item].pictures[:SHOWN]
    found = overlay(triplet.load_image(), triplet.load_target()[None], [triplet.description])
    return _beside([*(read_image(path) for path in photos), found])


SAMPLES: dict[str, Callable[[Path], RGB]] = {
    "coco": coco,
    "voc2012": voc2012,
    "coco2014": coco2014,
    "mug19": mug19,
}


def _labelled(root: Path, source: Any) -> RGB:
    from diffground.data.labelled_images import read_samples
    from diffground.data.vocabulary import Vocabulary

    vocabulary = Vocabulary.load("mini")
    names = vocabulary.label_names

    def drawn() -> Iterator[RGB]:
        for sample in read_samples(source, root, vocabulary, ProblemReport()):
            labels = sample.load_mask()
            there = [k for k in np.unique(labels) if 0 < k < len(names)]
            masks = np.stack([labels == k for k in there])
            yield overlay(sample.load_image(), masks, [names[k] for k in there])

    return _beside(list(islice(drawn(), SHOWN)))


def _beside(pictures: list[RGB]) -> RGB:
    """Pictures from left to right on white, small ones enlarged to a scene's height."""
    fitted = [Image.fromarray(picture) for picture in pictures]
    fitted = [
        each if each.height >= _SCENE else each.resize((_SCENE * each.width // each.height, _SCENE))
        for each in fitted
    ]
    width = sum(each.width + _GAP for each in fitted) - _GAP
    page = Image.new("RGB", (width, max(each.height for each in fitted)), "white")
    left = 0
    for each in fitted:
        page.paste(each, (left, 0))
        left += each.width + _GAP
    return np.asarray(page)
