"""Images with label masks: which pairs can be used, and crops of them to train on.

``H, W`` pixels of the image · ``S`` pixels of a crop's side
"""

from __future__ import annotations

import hashlib
import math
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Final

import torch
from torch import Tensor
from torch.nn import functional
from torch.utils.data import Dataset

from diffground.data.labelled_images import LabelledImage
from diffground.errors import InputError, ProblemReport
from diffground.io.images import image_size
from diffground.metrics.iou import UNSURE
from diffground.seeds import generator
from diffground.segmenters.config import DeepLabConfig
from diffground.segmenters.deeplab import normalise

# Raised when the same files give other training pairs or crops.
CODE_VERSION: Final = 1

SCALES = (0.5, 0.75, 1.0, 1.25, 1.5)  # of the image; one is drawn for each crop


def usable(
    samples: Iterable[LabelledImage], classes: int, *, deep: bool = True
) -> tuple[list[LabelledImage], ProblemReport]:
    """The pairs that can be trained on, and what is wrong with the others.

    Args:
        classes: labels are below it, or 255.
        deep: opens every image and mask; else only the sizes in the headers are compared. A mask in
            which no pixel has a label is found by ``deep`` only.
    """
    report, good = ProblemReport(), []
    for sample in samples:
        report.total += 1
        try:
            _check(sample, classes, deep)
        except InputError as error:
            report.add(sample.id, error)
        else:
            good.append(sample)
    return good, report


def fingerprint_labels(samples: Iterable[LabelledImage]) -> str:
    """16 hexadecimal digits of ids, masks (their bytes) and images (their file sizes), in order."""
    digest = hashlib.blake2b(digest_size=8)
    for sample in samples:
        mask = sample.mask_path.read_bytes() if sample.mask_path else b""
        content = hashlib.blake2b(mask).hexdigest()
        digest.update(f"{sample.id}\0{sample.image_path.stat().st_size}\0{content}\n".encode())
    return digest.hexdigest()


def fingerprint_files(samples: Iterable[LabelledImage]) -> str:
    """16 hexadecimal digits of ids, and of the files' sizes and times, in order; opens none.

    Equal only if no file was written to, moved or replaced in between. The times are those of the
    content and of the inode: who gives a new file its old date does not go unnoticed.
    """
    digest = hashlib.blake2b(digest_size=8)
    for sample in samples:
        states = [_state(path) for path in (sample.image_path, sample.mask_path)]
        digest.update(f"{sample.id}\0{sample.upright}\0{states}\n".encode())
    return digest.hexdigest()


class LabelledCrops(Dataset[tuple[Tensor, Tensor]]):
    """Augmented crops: normalised pixels float32 ``(3, S, S)`` and labels int64 ``(S, S)``.

    It holds ``draws`` different crops of every image: item ``draw * len(samples) + i`` is one of
    image i, the same in whatever order, batch or process it is read. What lies outside of the image
    has the mean colour and the label 255. A broken file raises :class:`InputError`; call
    :func:`usable` before.
    """

    def __init__(
        self,
        samples: Sequence[LabelledImage],
        classes: int,
        size: int,
        network: DeepLabConfig,
        *,
        draws: int,
        seed: int,
    ) -> None:
        assert draws >= 1, draws
        self.samples, self.classes = list(samples), classes
        self.size, self.network = size, network
        self.draws, self.seed = draws, seed

    def __len__(self) -> int:
        return len(self.samples) * self.draws

    def name(self, index: int) -> str:
        """The image's id."""
        return self.samples[index % len(self.samples)].id

    def __getitem__(self, index: int) -> tuple[Tensor, Tensor]:
        draw, place = divmod(index, len(self.samples))
        sample = self.samples[place]
        image = sample.load_image()
        labels = sample.load_mask(image.shape[:2], self.classes)
        pixels = normalise(torch.from_numpy(image).permute(2, 0, 1), self.network)
        random = generator(self.seed, sample.id, draw)
        return augment(pixels, torch.from_numpy(labels).long(), self.size, random)


def draws_for(steps: int, batch_size: int, images: int) -> int:
    """How often each image is needed, so that no crop of a training comes twice."""
    return math.ceil(steps * batch_size / max(1, images))


def augment(
    pixels: Tensor, labels: Tensor, size: int, random: torch.Generator
) -> tuple[Tensor, Tensor]:
    """One crop of ``size`` pixels a side, of ``pixels`` (3, H, W), 0 = the mean colour, and of
    ``labels`` int64 (H, W).

    Scaled (pixels bilinear, labels nearest), padded to the right and below, cropped, mirrored.
    """
    chosen = SCALES[int(torch.randint(len(SCALES), (), generator=random))]
    places = torch.rand(2, generator=random)
    mirrored = bool(torch.rand((), generator=random) < 0.5)
    if chosen != 1.0:
        grid = [max(1, int(side * chosen)) for side in labels.shape]
        pixels = functional.interpolate(pixels[None], grid, mode="bilinear", align_corners=False)[0]
        labels = functional.interpolate(labels[None, None].float(), grid, mode="nearest-exact")[
            0, 0
        ].long()
    height, width = labels.shape
    right, below = max(size - width, 0), max(size - height, 0)
    pixels = functional.pad(pixels, (0, right, 0, below))
    labels = functional.pad(labels, (0, right, 0, below), value=UNSURE)
    top, left = (
        min(int(float(place) * (side - size + 1)), side - size)
        for place, side in zip(places, labels.shape, strict=True)
    )
    pixels = pixels[:, top : top + size, left : left + size]
    labels = labels[top : top + size, left : left + size]
    if mirrored:
        pixels, labels = pixels.flip(-1), labels.flip(-1)
    return pixels.contiguous(), labels.contiguous()


def _state(path: Path | None) -> tuple[int, int, int] | None:
    """Size and times of a file; None if there is none."""
    try:
        found = path.stat() if path else None
    except OSError:
        return None
    return (found.st_size, found.st_mtime_ns, found.st_ctime_ns) if found else None


def _check(sample: LabelledImage, classes: int, deep: bool) -> None:
    """Raises InputError for a pair that cannot be trained on."""
    if deep:
        labels = sample.load_mask(sample.load_image().shape[:2], classes)
        if (labels == UNSURE).all():
            raise InputError(sample.mask_file(), "labels", "every pixel is unsure (255)")
        return
    image, mask = image_size(sample.image_path), image_size(sample.mask_file())
    turned = (image[1], image[0]) if sample.upright else image  # the header does not say whether
    if mask not in (image, turned):
        reason = f"the mask is {mask[1]}x{mask[0]}, its image {image[1]}x{image[0]}"
        raise InputError(sample.mask_file(), "size", reason)
