"""Writes scenes as COCO-2017 panoptic segmentation with panoptic narratives.

The layout is that of the Panoptic Narrative Grounding benchmark::

    images/{train2017,val2017}/000000xxxxxx.jpg
    annotations/panoptic_{split}.json                  images, segments_info, categories
    annotations/panoptic_segmentation/{split}/*.png    segment ids, id = R + 256 G + 65536 B
    annotations/png_coco_{split}.json                  narratives, as chunks with segment ids

As in the public data, ids of images and segments look random, a kind of stuff is one segment per
image, and a crowd is one segment with ``iscrowd`` 1.
"""

from __future__ import annotations

from pathlib import Path
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffground.io.files import write_compact
from diffground.io.images import write_jpeg, write_png
from diffground.io.panoptic import (
    MAX_ID,
    PanopticImage,
    Row,
    category_rows,
    encode_panoptic,
    narrative_row,
    panoptic_json,
    segment_row,
)
from diffground.progress import progress
from diffground.store.manifest import Manifest, make_folder
from diffground.world.captions import Caption, narrative
from diffground.world.config import Canvas, WorldConfig
from diffground.world.render import Rendering, render
from diffground.world.scene import rng_for, sample_scene
from diffground.world.vocabulary import CATEGORIES

# Raised when the same configuration gives other files, here or in the scenes that are drawn.
CODE_VERSION: Final = 2

SPLITS = ("train2017", "val2017")
_PRIME, _STEP = 299_993, 48_271  # image ids: index -> (index + 1) * step modulo the prime


def make_coco_panoptic(folder: Path, config: WorldConfig) -> Manifest:
    """Writes ``config.coco_panoptic`` under ``folder``, unless a valid one is there.

    An image's files and annotations depend on its index in the split, not on the counts.
    """

    def make(partial: Path) -> None:
        counts = (config.coco_panoptic.train, config.coco_panoptic.val)
        for split, seed, count in zip(SPLITS, (config.seed, config.eval_seed), counts, strict=True):
            _write_split(partial, split, seed, count, config.canvas)

    return make_folder(folder, config.recipe("coco_panoptic", CODE_VERSION), make)


def image_id(split: str, index: int) -> int:
    """The COCO image id of scene ``index``: positive, of one split only, in no visible order."""
    assert 0 <= index < _PRIME - 1, index
    return (index + 1) * _STEP % _PRIME + _PRIME * SPLITS.index(split)


def category_table() -> list[Row]:
    """The ``categories`` of the panoptic JSON, things before stuff."""
    return category_rows([(c.id, c.name, c.supercategory, c.is_thing) for c in CATEGORIES])


def segment_ids(seed: int, index: int, rendering: Rendering) -> dict[int, int]:
    """Number of a segment in the rendering -> its id in the files, in [1, 2**24)."""
    rng = rng_for(seed, index, "segment ids")
    ids = rng.choice(MAX_ID, len(rendering.segments), replace=False) + 1
    return {s.number: int(i) for s, i in zip(rendering.segments, ids, strict=True)}


def segments_info(rendering: Rendering, ids: dict[int, int]) -> list[Row]:
    """``segments_info`` of an annotation: areas in pixels, boxes ``[x, y, w, h]``."""
    return [
        segment_row(rendering.ids == s.number, ids[s.number], s.category.id, crowd=s.crowd)
        for s in rendering.segments
    ]


def described(
    number: int, annotator: int, caption: Caption, rendering: Rendering, ids: dict[int, int]
) -> Row:
    """A scene's row of ``png_coco_{split}.json``."""
    chunks = [
        (
            chunk.text,
            [ids[s.number] for s in rendering.segments if s.group in chunk.groups],
            chunk.plural,
            chunk.noun,
        )
        for chunk in caption.chunks
    ]
    return narrative_row(number, annotator, caption.text, chunks)


def _write_split(root: Path, split: str, seed: int, count: int, canvas: Canvas) -> None:
    pictures = root / "images" / split
    maps = root / "annotations" / "panoptic_segmentation" / split
    images, narratives = [], []
    for index in progress(range(count), f"COCO panoptic {split}"):
        scene = sample_scene(seed, index, canvas.sizes)
        rendering = render(scene, canvas.size)
        number = image_id(split, index)
        ids = segment_ids(seed, index, rendering)
        name, png = f"{number:012d}.jpg", f"{number:012d}.png"
        write_jpeg(pictures / name, rendering.image)
        write_png(maps / png, encode_panoptic(_renumber(rendering, ids)))
        size, rows = (canvas.size, canvas.size), segments_info(rendering, ids)
        images.append(PanopticImage(number, name, png, size, rows))
        annotator = int(rng_for(seed, index, "annotator").integers(0, 100))
        caption = narrative(scene, rendering)
        narratives.append(described(number, annotator, caption, rendering, ids))
    panoptic = panoptic_json(
        images,
        category_table(),
        info={"description": "diffground mini world", "version": "1.0", "year": 2017},
        licence="Apache-2.0",
    )
    for name, content in ((f"panoptic_{split}", panoptic), (f"png_coco_{split}", narratives)):
        write_compact(root / "annotations" / f"{name}.json", content)


def _renumber(rendering: Rendering, ids: dict[int, int]) -> NDArray[np.int64]:
    table = np.zeros(256, np.int64)
    table[list(ids)] = list(ids.values())
    return table[rendering.ids]
