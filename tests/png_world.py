"""A benchmark of three small images on disk, in either folder layout."""

import json
from pathlib import Path

import numpy as np

from diffground.io.images import write_png
from diffground.io.panoptic import encode_panoptic

BEAR, TREE_A, TREE_B, GRASS, CROWD = 1648163, 3165766, 70000, 258, 9
CATEGORIES = [
    {"id": 200, "name": "rug", "isthing": 0},
    {"id": 1, "name": "person", "isthing": 1},
    {"id": 23, "name": "bear", "isthing": 1},
    {"id": 184, "name": "tree", "isthing": 0},
    {"id": 193, "name": "grass", "isthing": 0},
]
SIZE = (24, 32)


def chunk(text, ids=(), *, noun=None, plural=False):
    """One chunk as the released file has it: ids are strings."""
    noun = bool(ids) if noun is None else noun
    return {"utterance": text, "segment_ids": list(map(str, ids)), "noun": noun, "plural": plural}


BEAR_CAPTION = "In this picture we can able to see a black bear on these trees."
BEAR_CHUNKS = [
    chunk("in this"),
    chunk("picture", noun=True),
    chunk("we can able to see a"),
    chunk("black bear", [BEAR]),
    chunk("on these"),
    chunk("trees", [TREE_A, TREE_B], plural=True),
    chunk("."),
]


def narrative(image_id="226461", caption=BEAR_CAPTION, segments=None):
    """One narrative of the released file."""
    segments = BEAR_CHUNKS if segments is None else segments
    return {
        "image_id": image_id,
        "annotator_id": 4,
        "caption": caption,
        "segments": [dict(entry) for entry in segments],
    }


def segment_ids():
    """Segment id per pixel of every image, uint32 (H, W): columns of ids, a VOID frame row."""
    ids = np.zeros(SIZE, np.uint32)
    for start, segment in zip(
        (0, 8, 14, 20, 28), (BEAR, TREE_A, TREE_B, GRASS, CROWD), strict=True
    ):
        ids[1:, start : start + 8] = segment
    return ids


def panoptic_json(image_ids=(226461, 5, 77)):
    """The panoptic JSON: TREE_B has the box of TREE_A, CROWD is a crowd region."""
    info = [
        (BEAR, 23, 0, [0, 1, 8, 23]),
        (TREE_A, 184, 0, [8, 1, 12, 23]),
        (TREE_B, 184, 0, [8, 1, 12, 23]),
        (GRASS, 193, 0, [20, 1, 8, 23]),
        (CROWD, 1, 1, [28, 1, 4, 23]),
    ]
    segments = [
        {"id": i, "category_id": c, "iscrowd": crowd, "bbox": box, "area": 1}
        for i, c, crowd, box in info
    ]
    height, width = SIZE
    return {
        "images": [
            {"id": i, "file_name": f"{i:012d}.jpg", "height": height, "width": width}
            for i in image_ids
        ],
        "annotations": [
            {"image_id": i, "file_name": f"{i:012d}.png", "segments_info": segments}
            for i in image_ids
        ],
        "categories": CATEGORIES,
    }


def build(root: Path, narratives, *, layout="png", split="val2017", panoptic=None) -> Path:
    """Writes the benchmark under ``root`` and returns it."""
    panoptic = panoptic or panoptic_json()
    images = root / ("images" if layout == "png" else "") / split
    pngs = root / "annotations"
    pngs = pngs / "panoptic_segmentation" / split if layout == "png" else pngs / f"panoptic_{split}"
    rng = np.random.default_rng(0)
    for image in panoptic["images"]:
        pixels = rng.integers(0, 256, (image["height"], image["width"], 3)).astype(np.uint8)
        write_png(images / image["file_name"], pixels)  # PNG bytes: lossless, read by content
    for entry in panoptic["annotations"]:
        write_png(pngs / entry["file_name"], encode_panoptic(segment_ids()))
    annotations = root / "annotations"
    (annotations / f"png_coco_{split}.json").write_text(json.dumps(narratives))
    (annotations / f"panoptic_{split}.json").write_text(json.dumps(panoptic))
    return root
