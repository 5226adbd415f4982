"""From an image of any size to one that the model takes, and from its grid back to the image.

Three sizes ``(height, width)`` in pixels: the *original* image's, that of its *content* after the
resize, and the *padded* one that the model sees::

    original 375 x 500   ──resize──►  content 554 x 832  ──pad──►  padded 576 x 832
                                       +----------+                 +----------+
                                       |          |                 |          |
                                       +----------+                 |          |
                                                                    +~~~~~~~~~~+ colour
"""

from __future__ import annotations

import math
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from diffground.attention.official import PAD_COLOUR, long_side, shrunk_side
from diffground.backbone.frozen import FrozenDiffusion
from diffground.config import Compat
from diffground.errors import InputError

Size = tuple[int, int]
_UNSEEN = 1.02  # a stretch that is not worth another size


@dataclass(frozen=True)
class Geometry:
    """The sizes of one image on its way to the model, each ``(height, width)`` in pixels."""

    original: Size
    content: Size
    padded: Size

    def to_image(self, maps: Tensor, compat: Compat) -> Tensor:
        """Maps (K, h, w) of the padded image's grid as (K, H, W) of the original image: bilinear.

        ``official`` goes through the padded size, where the padding is cut off, as the public code
        does, also where there is none; ``paper``, which never pads, is one step.
        """
        if compat == "paper":
            assert self.content == self.padded, self
            return _bilinear(maps, self.original)
        height, width = self.content
        return _bilinear(_bilinear(maps, self.padded)[:, :height, :width], self.original)

    def nearest(self, labels: Tensor) -> Tensor:
        """Labels (h, w) of the grid as (H, W) of the original image, by the nearest pixel.

        The public code scores its "initial" masks so: decided on the grid, then enlarged.
        """
        height, width = self.content
        padded = _nearest(labels, self.padded)[:height, :width]
        return _nearest(padded, self.original)


def sizes(
    height: int, width: int, *, native: int, multiple: int, compat: Compat, long: int | None = None
) -> Geometry:
    """The sizes of an image (height, width) on its way to a model that takes ``multiple``s.

    ``long`` is the long side aimed at, pixels. Without it, it is the public code's for ``native``,
    the side that the model was trained at, in either mode: the paper only says "rescale it to meet
    the model requirements" (002, §5.1), and names no size.

    ``official`` keeps the aspect ratio to a pixel, and pads to the next multiples. ``paper``
    rescales and pads nothing, so both sides are multiples and the image is stretched a little: of
    the long sides within a third of the target, the nearest that stretches it by less than 2 %, or
    else the one that stretches it least (with 512 and 64 by 1 % in the mean and 4 % at most; a
    small model has few sizes, and 4:3 at ``long`` 128 becomes a square).
    """
    target = long_side(height, width, native) if long is None else long
    if compat == "paper":
        content = padded = _least_stretched((height, width), target, multiple)
    else:
        short = shrunk_side(min(height, width), max(height, width), target)
        content = (target, short) if height > width else (short, target)
        padded = math.ceil(content[0] / multiple), math.ceil(content[1] / multiple)
        padded = padded[0] * multiple, padded[1] * multiple
    return Geometry((height, width), content, padded)


def fit(
    image: NDArray[np.uint8], *, native: int, multiple: int, compat: Compat, long: int | None = None
) -> tuple[NDArray[np.uint8], Geometry]:
    """The image (H, W, 3) at its :func:`sizes`: resized bilinearly (antialiased), then padded.

    ``official`` pads right and bottom with :data:`PAD_COLOUR`.

    Raises:
        InputError: not a uint8 RGB image.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            "image", "shape", f"{image.dtype} {image.shape}: uint8 (H, W, 3) is needed"
        )
    height, width = image.shape[:2]
    found = sizes(height, width, native=native, multiple=multiple, compat=compat, long=long)
    resized = Image.fromarray(image).resize(found.content[::-1], Image.Resampling.BILINEAR)
    canvas = np.empty((*found.padded, 3), dtype=np.uint8)
    canvas[:] = PAD_COLOUR
    canvas[: found.content[0], : found.content[1]] = np.asarray(resized)
    return canvas, found


def prepare(
    model: FrozenDiffusion, image: NDArray[np.uint8], compat: Compat, long: int | None = None
) -> tuple[Tensor, Geometry]:
    """The image for the model, (1, 3, H', W') in [-1, 1], and its geometry; see :func:`fit`.

    Sides become multiples of what the VAE and the UNet together shrink by (64 in Stable Diffusion).
    """
    native = int(model.unet.config.sample_size) * model.latent_stride
    multiple = model.latent_stride * 2 ** (len(model.unet.config.block_out_channels) - 1)
    canvas, geometry = fit(image, native=native, multiple=multiple, compat=compat, long=long)
    pixels = torch.from_numpy(canvas).permute(2, 0, 1)[None].float() / 127.5 - 1
    return pixels, geometry


def _least_stretched(size: Size, target: int, multiple: int) -> Size:
    """``paper``'s size, see :func:`sizes`; both sides at least one multiple."""
    short, long = sorted(size)

    def partner(units: int) -> int:
        return max(1, round(units * short / long))

    def stretch(units: int) -> float:
        ratio = units * short / (partner(units) * long)
        return max(ratio, 1 / ratio)

    nearest = max(1, round(target / multiple))
    near = [n for n in range(1, 2 * nearest) if 3 / 4 <= n * multiple / target <= 4 / 3]
    units = min(
        {nearest, *near},
        key=lambda n: (max(stretch(n), _UNSEEN), abs(n * multiple - target), n),
    )
    sides = units * multiple, partner(units) * multiple
    return sides if size[0] > size[1] else sides[::-1]


def _bilinear(maps: Tensor, size: Size) -> Tensor:
    return functional.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def _nearest(labels: Tensor, size: Size) -> Tensor:
    # Float, because integers have no kernel on every device; labels are far below 2**24.
    grid = labels[None, None].float()
    return functional.interpolate(grid, size, mode="nearest")[0, 0].to(labels.dtype)
