"""mIoU of masks that were asked for by class, streaming: class-wise, and per image.

Each image has some classes that are asked for, and a true mask for each; masks may overlap, and no
pixel need have a class. Two readings, which differ where masks are of different sizes or classes
are asked for unequally often:

- *class* is the mean over classes of IoU_c (003, section 4.2), whose intersection and union are
  summed over all images that are asked for c, as is usual in segmentation; the papers do not say;
- *image* is the mean over images of the mean IoU of their masks, which is what the public codes of
  003 and 004 print.

A class with an empty true mask is absent. It is in neither, as an IoU with nothing is 0 however
little is found: how often and how much of the image is found is counted by itself.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Sequence
from typing import Any

import numpy as np
from numpy.typing import NDArray

from diffground.metrics.iou import mask_iou


class ClassMasks:
    """Scores of one image after the other; the size depends on the number of classes only."""

    def __init__(self) -> None:
        self.images = 0  # with at least one class that is there
        self.masks: Counter[str] = Counter()  # class -> how often it was asked for and there
        self._intersection: Counter[str] = Counter()  # class -> pixels
        self._union: Counter[str] = Counter()
        self._sum = 0.0  # of the images' mean IoU
        self._absent = self._found = 0  # masks
        self._area = 0.0  # sum of the found parts of the image

    def update(
        self, names: Sequence[str], predicted: NDArray[np.bool_], truth: NDArray[np.bool_]
    ) -> None:
        """Adds an image: N names, and bool (N, H, W) of what was found and of what is true."""
        assert len(names) == len(truth), (len(names), truth.shape)
        present = np.flatnonzero(truth.any(axis=(1, 2)))
        if len(present):
            self.images += 1
            self._sum += float(mask_iou(predicted, truth)[present].mean())
        for index, (name, found, true) in enumerate(zip(names, predicted, truth, strict=True)):
            if index in present:
                self.masks[name] += 1
                self._intersection[name] += int((found & true).sum())
                self._union[name] += int((found | true).sum())
            else:
                self._absent += 1
                self._found += bool(found.any())
                self._area += float(found.mean())

    def result(self) -> dict[str, Any]:
        """JSON-ready, in percent, None where there is nothing to measure.

        ``"class"`` and ``"image"``, the two mIoUs; ``"iou"``: class -> its IoU; ``"images"`` and
        ``"masks"``, how many they are of; ``"absent"``: ``"asked"``, how many masks of absent
        classes were asked for, ``"found"``, in how many of 100 something was found, and ``"area"``,
        how much of the image on average.
        """
        iou = {
            name: 100 * self._intersection[name] / self._union[name] for name in sorted(self.masks)
        }
        absent = self._absent
        return {
            "class": float(np.mean([*iou.values()])) if iou else None,
            "image": 100 * self._sum / self.images if self.images else None,
            "iou": iou,
            "images": self.images,
            "masks": self.masks.total(),
            "absent": {
                "asked": absent,
                "found": 100 * self._found / absent if absent else None,
                "area": 100 * self._area / absent if absent else None,
            },
        }
