"""What the writers share: masks of classes."""

from __future__ import annotations

import numpy as np
from numpy.typing import NDArray

from diffground.metrics.iou import UNSURE
from diffground.world.render import Rendering
from diffground.world.vocabulary import THINGS

# Category id -> class of the semantic datasets: things are 1..14 in their order, 0 the background.
CLASS_OF = {category.id: row for row, category in enumerate(THINGS, start=1)}
CLASS_NAMES = ("background", *(category.name for category in THINGS))


def class_mask(rendering: Rendering, *, borders: bool) -> NDArray[np.uint8]:
    """Classes 1..14 of the things and 0 elsewhere, uint8 ``(H, W)``.

    ``borders``: the pixels on both sides of every instance's outline are 255, as in VOC.
    """
    table = np.zeros(256, np.uint8)
    for segment in rendering.segments:
        table[segment.number] = CLASS_OF.get(segment.category.id, 0)
    labels = table[rendering.ids]
    if borders:
        instances = np.where(labels > 0, rendering.ids, 0)
        edge = np.zeros(labels.shape, bool)
        across = instances[:, 1:] != instances[:, :-1]
        down = instances[1:] != instances[:-1]
        edge[:, 1:] |= across
        edge[:, :-1] |= across
        edge[1:] |= down
        edge[:-1] |= down
        labels[edge] = UNSURE
    return labels
