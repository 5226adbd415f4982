"""Small coloured scenes with soft scores; run as a script, it fills a folder with their masks."""

from __future__ import annotations

import sys
import time
from pathlib import Path

import numpy as np

from diffground.errors import InputError
from diffground.masks.crf import CrfConfig
from diffground.masks.mask_files import MaskConfig, MaskWork, WorkConfig, write_masks

CLASSES = ("background", "a", "b", "c")
IDS = [f"item_{number:03d}" for number in range(60)]
BROKEN = "item_017"
CONFIG = MaskConfig(crf=CrfConfig(iterations=2), initial=True, confidence=True, threshold=0.9)
RECIPE = {"model": "none"}


def scene(seed: int, size: tuple[int, int], labels: int, noise: float = 8.0):
    """An image (H, W, 3), scores (labels, H, W) that are blurred, and the true labels (H, W)."""
    rng = np.random.default_rng(seed)
    height, width = size
    y, x = np.mgrid[:height, :width]
    truth = np.zeros(size, np.uint8)
    image = np.empty((*size, 3))
    image[:] = rng.integers(0, 256, 3)
    for label in range(1, labels):
        row, column = rng.uniform(0.2, 0.8, 2) * size
        inside = (y - row) ** 2 + (x - column) ** 2 < (rng.uniform(0.15, 0.3) * min(size)) ** 2
        truth[inside] = label
        image[inside] = rng.integers(0, 256, 3)
    image = np.clip(image + rng.normal(0, noise, image.shape), 0, 255).astype(np.uint8)
    hard = np.stack([truth == label for label in range(labels)]).astype(np.float64)
    pad = np.pad(hard, ((0, 0), (4, 4), (4, 4)), mode="edge")
    boxes = [pad[:, i : i + height, j : j + width] for i in range(9) for j in range(9)]
    scores = np.mean(boxes, axis=0) + rng.normal(0, 0.03, hard.shape)
    return image, np.clip(scores, 0, 1).astype(np.float32), truth


def make(item: str) -> MaskWork:
    """The work of an item; one is broken."""
    if item == BROKEN:
        raise InputError(f"{item}.jpg", "pixels", "the image is cut short or corrupt")
    number = int(item.rpartition("_")[2])
    image, scores, _ = scene(number, (24, 32 + number % 3), 4)
    return MaskWork(image, scores, (0, 1, 2, 3), initial=scores.argmax(0).astype(np.uint8))


def slowly(item: str) -> MaskWork:
    """As :func:`make`, at a pace at which a run can be killed in the middle."""
    time.sleep(0.02)
    return make(item)


if __name__ == "__main__":
    folder, work = Path(sys.argv[1]), WorkConfig(workers=2)
    write_masks(IDS, slowly, folder, CONFIG, work, compat="official", recipe=RECIPE)
