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
from collections.abc import Callable
from dataclasses import dataclass

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.nn import functional

from diffground.attention.official import PAD_COLOUR, long_side, shrunk_side
from diffground.attention.queries import Compat
from diffground.backbone.frozen import FrozenDiffusion
from diffground.errors import InputError

Size = tuple[int, int]


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


def fit(
    image: NDArray[np.uint8], *, native: int, multiple: int, compat: Compat, long: int | None = None
) -> tuple[NDArray[np.uint8], Geometry]:
    """The image (H, W, 3) at a size that ``multiple`` divides, resized bilinearly (antialiased).

    ``official`` keeps the aspect ratio and pads right and bottom with :data:`PAD_COLOUR`. ``paper``
    ("rescale it to meet the model requirements", 002, §5.1) pads nothing and stretches either side
    to the nearest multiple. ``long`` is the long side in pixels; without it, it is the public
    code's for ``native``, the side that the model was trained at: the paper names no size.

    Raises:
        InputError: not a uint8 RGB image.
    """
    if image.dtype != np.uint8 or image.ndim != 3 or image.shape[2] != 3 or 0 in image.shape:
        raise InputError(
            "image", "shape", f"{image.dtype} {image.shape}: uint8 (H, W, 3) is needed"
        )
    height, width = image.shape[:2]
    target = long_side(height, width, native) if long is None else long
    short = shrunk_side(min(height, width), max(height, width), target)
    wanted = (target, short) if height > width else (short, target)
    if compat == "paper":
        exact = target / max(height, width)
        content = _multiples((height * exact, width * exact), multiple, round)
        padded = content
    else:
        content, padded = wanted, _multiples(wanted, multiple, math.ceil)
    resized = Image.fromarray(image).resize(content[::-1], Image.Resampling.BILINEAR)
    canvas = np.empty((*padded, 3), dtype=np.uint8)
    canvas[:] = PAD_COLOUR
    canvas[: content[0], : content[1]] = np.asarray(resized)
    return canvas, Geometry((height, width), content, padded)


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


def _multiples(size: tuple[float, float], multiple: int, rounded: Callable[[float], int]) -> Size:
    height, width = (max(1, rounded(side / multiple)) * multiple for side in size)
    return height, width


def _bilinear(maps: Tensor, size: Size) -> Tensor:
    return functional.interpolate(maps[None], size, mode="bilinear", align_corners=False)[0]


def _nearest(labels: Tensor, size: Size) -> Tensor:
    # Float, because integers have no kernel on every device; labels are far below 2**24.
    grid = labels[None, None].float()
    return functional.interpolate(grid, size, mode="nearest")[0, 0].to(labels.dtype)
