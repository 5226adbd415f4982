"""Which maps of a UNet the grounding modules read: their names, channels and levels.

- ``layers``: what every layer puts out, in the public code of Grounded Diffusion (25 maps in Stable
  Diffusion 1.x) and of IOSD (19 in SDXL): the first convolution, each transformer (each resnet in
  blocks without attention), each downsampler, the middle, and each upsampler in place of the layer
  before it.
- ``blocks``: what every block puts out, 9 maps in Stable Diffusion 1.x; so the public code of 003.

Maps are in the order of execution, which is the order of their channels in released weights.
"""

from __future__ import annotations

from collections.abc import Iterator
from dataclasses import dataclass

from diffusers import UNet2DConditionModel

from diffground.papers.grounded.module_config import Features


@dataclass(frozen=True)
class FeatureMap:
    """One map: the module of diffusers that puts it out, its channels, and its level.

    ``level`` counts halvings of the latents' grid: 0 has as many cells as they have.
    """

    name: str
    channels: int
    level: int


def feature_maps(unet: UNet2DConditionModel, features: Features) -> tuple[FeatureMap, ...]:
    """The maps of a UNet, whose weights are not looked at (it may be on the meta device)."""
    found = _of_layers(unet) if features == "layers" else _of_blocks(unet)
    return tuple(found)


def _of_layers(unet: UNet2DConditionModel) -> Iterator[FeatureMap]:
    widths = unet.config.block_out_channels
    coarsest = len(widths) - 1
    yield FeatureMap("conv_in", widths[0], 0)
    for level, block in enumerate(unet.down_blocks):
        name = f"down_blocks.{level}"
        for layer in range(len(block.resnets)):
            yield FeatureMap(f"{name}.{_layer(block, layer)}", widths[level], level)
        if block.downsamplers is not None:
            yield FeatureMap(f"{name}.downsamplers.0", widths[level], level + 1)
    yield FeatureMap("mid_block", widths[-1], coarsest)
    for index, block in enumerate(unet.up_blocks):
        name, level = f"up_blocks.{index}", coarsest - index
        outputs = [(_layer(block, layer), level) for layer in range(len(block.resnets))]
        if block.upsamplers is not None:
            outputs[-1] = "upsamplers.0", level - 1
        for output, there in outputs:
            yield FeatureMap(f"{name}.{output}", widths[level], there)


def _layer(block: object, index: int) -> str:
    attends = getattr(block, "has_cross_attention", False)
    return f"{'attentions' if attends else 'resnets'}.{index}"


def _of_blocks(unet: UNet2DConditionModel) -> Iterator[FeatureMap]:
    widths = unet.config.block_out_channels
    coarsest = len(widths) - 1
    for level, width in enumerate(widths):
        yield FeatureMap(f"down_blocks.{level}", width, min(level + 1, coarsest))
    yield FeatureMap("mid_block", widths[-1], coarsest)
    for index, width in enumerate(reversed(widths)):
        yield FeatureMap(f"up_blocks.{index}", width, max(coarsest - index - 1, 0))
