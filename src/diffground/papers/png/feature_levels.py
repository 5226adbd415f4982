"""Where the three levels of image and phrase features are in a UNet (Li et al., section 3.3).

The paper takes image features of 1/8, 1/16 and 1/32 of the image "from different blocks of the
UNet" and phrase features from the adapter's blocks of the same levels, and names neither. Here an
image level is what the last transformer (or resnet, where there is none) of the decoder block of
that stride puts out; its phrase level is ``R^(l)`` of the last adapter at that stride, be it in the
encoder or in the decoder. A stride without an adapter (SDXL's 1/8) takes the last ``R^(l)`` of the
nearest coarser one, and without any adapter every level has the static phrases.

Levels are listed fine to coarse: F_3, F_4, F_5.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass

from diffusers import UNet2DConditionModel

from diffground.errors import InputError

STRIDES = (1, 2, 4)  # latent pixels per feature pixel: 1/8, 1/16 and 1/32 of the image


@dataclass(frozen=True)
class ImageLevels:
    """The modules whose outputs are F_3, F_4 and F_5, and how many channels they have."""

    modules: tuple[str, ...]
    widths: tuple[int, ...]

    @classmethod
    def of(cls, unet: UNet2DConditionModel) -> ImageLevels:
        """The levels of any UNet of at least three resolutions.

        Raises:
            InputError: the UNet has fewer.
        """
        blocks = unet.up_blocks
        if len(blocks) < len(STRIDES):
            raise InputError(
                "unet", "up_blocks", f"{len(blocks)} resolutions, MLMA needs {len(STRIDES)}"
            )
        modules, widths = [], []
        for stride in STRIDES:
            index = len(blocks) - stride.bit_length()
            block = blocks[index]
            kind = "attentions" if getattr(block, "has_cross_attention", False) else "resnets"
            modules.append(f"up_blocks.{index}.{kind}.{len(getattr(block, kind)) - 1}")
            widths.append(int(block.resnets[-1].out_channels))
        return cls(tuple(modules), tuple(widths))


def site_stride(site: str, unet: UNet2DConditionModel) -> int:
    """Latent pixels per feature pixel at an attn2 of a down or up block."""
    kind, number = site.split(".")[:2]
    if kind == "down_blocks":
        return int(2 ** int(number))
    assert kind == "up_blocks", site
    return int(2 ** (len(unet.up_blocks) - 1 - int(number)))


def phrase_levels(sites: Sequence[str], unet: UNet2DConditionModel) -> tuple[int, ...]:
    """For each level the index, among the adapter's ``sites`` in execution order, of its R^(l)."""
    assert sites, "there is no adapter"
    strides = [site_stride(site, unet) for site in sites]
    chosen = []
    for wanted in STRIDES:
        coarser = [stride for stride in strides if stride >= wanted]
        nearest = min(coarser) if coarser else max(strides)
        chosen.append(max(index for index, stride in enumerate(strides) if stride == nearest))
    return tuple(chosen)
