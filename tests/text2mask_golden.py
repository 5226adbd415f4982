"""Golden values: the public code's arithmetic on a tiny image, written out in plain Python.

No torch, no library but random numbers, nothing of ours: every step is a loop over its definition.
Run as a script, it writes inputs and results of every stage to ``text2mask_golden.json`` beside it;
``attention/test_golden.py`` compares the real code with that file::

    python tests/text2mask_golden.py

The image is 7 x 13 pixels, its content 15 x 28, padded 16 x 32; the self layer's grid is 4 x 8, one
of the two cross layers has 2 x 4. Labels are those of an image of 23 x 42: its content is the same.
"""

from __future__ import annotations

import json
import math
from pathlib import Path
from typing import Any

import numpy as np

FILE = Path(__file__).with_suffix(".json")
HEADS, WIDTH = 2, 3  # of every attention layer, and of a head
ORIGINAL, CONTENT, PADDED, GRID = (7, 13), (15, 28), (16, 32), (4, 8)
LARGE = (23, 42)
TOKENS = [[3, 4, 5], [7]]  # of the two classes, the start token is 0
BOXES, BACKGROUND = (0.2, 0.5, 0.8), (0.5, 0.35)  # the public code's, and one that leaves more out
SIZES = [
    (7, 13),
    (375, 500),
    (500, 333),
    (338, 640),
    (640, 338),
    (500, 500),
    (640, 1137),
    (100, 1000),
]
LEVELS = [[255, 0, 51.5, 0, 52.5, 0], [0] * 6, [127.5, 0, 128.5, 0, 0, 0], [0] * 6]  # of 256
PIXELS = [[[100, 110, 120], [200, 0, 255]], [[0, 116, 104], [255, 117, 123]]]  # RGB
POSTERIOR = [  # in order: just below, just above and at 0.95, then 0.02, 0.07 and 0.96 apart
    [[0.9499, 0.9501, 0.95, 0.50, 0.53, 0.01]],
    [[0.0501, 0.0000, 0.05, 0.48, 0.46, 0.97]],
    [[0.0000, 0.0499, 0.00, 0.02, 0.01, 0.02]],
]


Grid = list[list[float]]


def make() -> dict[str, Any]:
    """Inputs and results, stage by stage."""
    random = np.random.default_rng(2024)

    def drawn(*shape: int, scale: float = 1.0) -> Any:
        return np.round(scale * random.standard_normal(shape), 3).tolist()

    width = HEADS * WIDTH
    inputs: dict[str, Any] = {
        "text": drawn(9, 5),
        "layers": {
            "self": {"hidden": drawn(32, 4), "q": drawn(width, 4), "k": drawn(width, 4)},
            "fine": {"hidden": drawn(32, 4), "q": drawn(width, 4), "k": drawn(width, 5)},
            "coarse": {"hidden": drawn(8, 4), "q": drawn(width, 4), "k": drawn(width, 5)},
        },
    }
    layers, text = inputs["layers"], inputs["text"]
    affinity = attention(layers["self"], layers["self"]["hidden"])
    by_layer = {name: attention(layers[name], text) for name in ("fine", "coarse")}
    raw = cross(by_layer)
    normalised = [minmax(one) for one in raw]
    boxes = [[box(one, threshold) for one in normalised] for threshold in BOXES]
    passed = [
        [[c * b for c, b in zip(*rows, strict=True)] for rows in zip(one, mask, strict=True)]
        for one, mask in zip(normalised, boxes[-1], strict=True)
    ]
    spread = [propagate(affinity, one) for one in passed]
    maps = [minmax(one) for one in spread]
    paper = [minmax(propagate(affinity, one)) for one in raw]
    voc, coco = (with_background(maps, threshold) for threshold in BACKGROUND)
    large = [to_image(one) for one in voc]
    return {
        "inputs": inputs,
        "sizes": [[size, content_size(*size, 512)] for size in SIZES],
        "self": affinity,
        "cross layers": by_layer,
        "cross": raw,
        "normalised": normalised,
        "boxes": boxes,
        "level boxes": [box([[v / 255 for v in row] for row in LEVELS], t) for t in BOXES],
        "propagated": spread,
        "maps": maps,
        "paper maps": paper,
        "scores voc": voc,
        "scores coco": coco,
        "large": large,
        "paper large": [bilinear(one, ORIGINAL) for one in with_background(paper, 0.5)],
        "initial": nearest(crop(nearest(winners(voc), PADDED)), LARGE),
        "unary": [[[-math.log(min(max(v, 1e-5), 1)) for v in r] for r in one] for one in large],
        "picture": [[centred(pixel) for pixel in row] for row in PIXELS],
        "pseudo": pseudo_labels(POSTERIOR, [0, 7, 9]),
        "paper uncertain": close(POSTERIOR),
    }


def content_size(height: int, width: int, native: int) -> tuple[int, int]:
    """The size of an image before it is padded, of a model of ``native`` pixels (the code: 512)."""
    ratio, unit = max(height / width, width / height), native // 8
    if ratio > 16 / 7:
        long = unit * 16
    elif ratio > 15 / 8:
        long = unit * 15
    elif ratio > 14 / 8:
        long = unit * 14
    elif ratio > 13 / 9:
        long = unit * 13
    elif ratio > 12 / 10:
        long = unit * 12
    else:
        long = unit * 11
    if width > height:
        return int(long * height / width), long
    return long, int(long * width / height)


def attention(layer: dict[str, Any], context: Grid) -> Grid:
    """Softmax over the context of q·k / sqrt(width of a head), the mean of the heads."""
    queries = [times(layer["q"], row) for row in layer["hidden"]]
    keys = [times(layer["k"], row) for row in context]
    rows = []
    for query in queries:
        mean = [0.0] * len(keys)
        for head in range(HEADS):
            part = range(head * WIDTH, head * WIDTH + WIDTH)
            scores = [sum(query[i] * key[i] for i in part) / math.sqrt(WIDTH) for key in keys]
            exps = [math.exp(score) for score in scores]
            mean = [m + e / sum(exps) / HEADS for m, e in zip(mean, exps, strict=True)]
        rows.append(mean)
    return rows


def times(matrix: Grid, vector: list[float]) -> list[float]:
    return [sum(a * b for a, b in zip(row, vector, strict=True)) for row in matrix]


def cross(by_layer: dict[str, Grid]) -> list[Grid]:
    """Each class: the mean of its tokens, brought to the self layer's grid, the layers' mean."""
    found = []
    for tokens in TOKENS:
        large = []
        for probabilities, width in ((by_layer["fine"], 8), (by_layer["coarse"], 4)):
            means = [sum(row[t] for t in tokens) / len(tokens) for row in probabilities]
            folded = [means[i : i + width] for i in range(0, len(means), width)]
            large.append(bilinear(folded, GRID))
        found.append(
            [[(a + b) / 2 for a, b in zip(*rows, strict=True)] for rows in zip(*large, strict=True)]
        )
    return found


def minmax(grid: Grid) -> Grid:
    values = [v for row in grid for v in row]
    low, high = min(values), max(values)
    return [[(v - low) / (high - low) for v in row] for row in grid]


def box(grid: Grid, threshold: float) -> list[list[int]]:
    """1 in the bounding boxes of what is bright, whose end is clipped to the last index."""
    height, width = len(grid), len(grid[0])
    levels = [[int(v * 255) for v in row] for row in grid]
    least = int(threshold * max(max(row) for row in levels))
    left = {(y, x) for y in range(height) for x in range(width) if levels[y][x] > least}
    mask = [[0] * width for _ in range(height)]
    while left:
        component, border = set(), [left.pop()]
        while border:
            y, x = border.pop()
            component.add((y, x))
            near = {(y + dy, x + dx) for dy in (-1, 0, 1) for dx in (-1, 0, 1)} & left
            left -= near
            border += near
        ys, xs = [y for y, _ in component], [x for _, x in component]
        for y in range(min(ys), min(max(ys) + 1, height - 1)):
            for x in range(min(xs), min(max(xs) + 1, width - 1)):
                mask[y][x] = 1
    return mask


def propagate(affinity: Grid, grid: Grid) -> Grid:
    """(Self · Self) · column, the square written out."""
    size = range(len(affinity))
    squared = [[sum(row[k] * affinity[k][j] for k in size) for j in size] for row in affinity]
    column = times(squared, [v for row in grid for v in row])
    width = len(grid[0])
    return [column[i : i + width] for i in range(0, len(column), width)]


def with_background(maps: list[Grid], threshold: float) -> list[Grid]:
    highest = [
        [max(values) for values in zip(*rows, strict=True)] for rows in zip(*maps, strict=True)
    ]
    return [[[(2 * threshold - v) ** 2 for v in row] for row in highest], *maps]


def winners(scores: list[Grid]) -> list[list[int]]:
    return [
        [max(range(len(v)), key=v.__getitem__) for v in zip(*rows, strict=True)]
        for rows in zip(*scores, strict=True)
    ]


def to_image(grid: Grid) -> Grid:
    return bilinear(crop(bilinear(grid, PADDED)), ORIGINAL)


def crop(grid: list[list[Any]]) -> list[list[Any]]:
    return [row[: CONTENT[1]] for row in grid[: CONTENT[0]]]


def bilinear(grid: Grid, size: tuple[int, int]) -> Grid:
    """Pixels are squares: centres lie at halves, and beyond the outermost nothing changes."""

    def place(index: int, old: int, new: int) -> tuple[int, int, float]:
        at = max(0.0, (index + 0.5) * old / new - 0.5)
        first = int(at)
        return first, min(first + 1, old - 1), at - first

    result = []
    for y in range(size[0]):
        top, bottom, down = place(y, len(grid), size[0])
        row = []
        for x in range(size[1]):
            left, right, along = place(x, len(grid[0]), size[1])
            above = grid[top][left] * (1 - along) + grid[top][right] * along
            below = grid[bottom][left] * (1 - along) + grid[bottom][right] * along
            row.append(above * (1 - down) + below * down)
        result.append(row)
    return result


def nearest(grid: list[list[int]], size: tuple[int, int]) -> list[list[int]]:
    """The pixel above and left of a place, not the one whose centre is nearest."""
    height, width = len(grid), len(grid[0])
    return [
        [grid[y * height // size[0]][x * width // size[1]] for x in range(size[1])]
        for y in range(size[0])
    ]


def centred(pixel: list[int]) -> list[int]:
    """BGR less its mean, cut to whole numbers, negative ones 256 higher."""
    means = (104.008, 116.669, 122.675)
    return [int(v - mean) % 256 for v, mean in zip(pixel[::-1], means, strict=True)]


def pseudo_labels(posterior: list[Grid], ids: list[int]) -> list[list[int]]:
    """The label ids, 255 where the best label has less than 0.95."""
    return [
        [ids[v.index(max(v))] if max(v) >= 0.95 else 255 for v in zip(*rows, strict=True)]
        for rows in zip(*posterior, strict=True)
    ]


def close(scores: list[Grid]) -> list[list[bool]]:
    """Where the two best scores are less than 0.05 apart."""
    return [
        [sorted(v)[-1] - sorted(v)[-2] < 0.05 for v in zip(*rows, strict=True)]
        for rows in zip(*scores, strict=True)
    ]


def rounded(content: Any) -> Any:
    """Seven digits behind the point, in lists and in dictionaries."""
    if isinstance(content, dict):
        return {key: rounded(value) for key, value in content.items()}
    if isinstance(content, list):
        return [rounded(value) for value in content]
    return round(content, 7) if isinstance(content, float) else content


if __name__ == "__main__":
    entries = (f"{json.dumps(key)}: {json.dumps(value)}" for key, value in rounded(make()).items())
    FILE.write_text("{\n" + ",\n".join(entries) + "\n}\n", "utf-8")
