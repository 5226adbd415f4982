"""Small coloured scenes with soft scores."""

from __future__ import annotations

import numpy as np


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
