"""The visual encoder: a UNet's maps, from the coarsest level to the finest, mixed step by step.

Grounded Diffusion's (003, section 3.4) and IOSD's (004, section 3.1 and Figure 3), which differ in
what happens at the end::

    maps of a level ─ 1x1 ─ x2 ─┐
    the coarser levels ─ resize ─┴─ concatenate ─ mix ─► the next level

Without a pyramid the finest level keeps its size, and its mixed map is both what the queries see
and what masks are read from. With one it is doubled like the others, the queries see the map of
each level, resized to the next, and masks are read from a last block at twice the finest grid.

Three identities save most of the work. A 1x1 convolution commutes with bilinear interpolation, so
it comes first, on a quarter of the cells. The maps of a level are convolved one by one and summed,
so they are never concatenated. And since the last convolutions of a block are linear, the product
of its output with an embedding is a convolution to *one* channel (:meth:`MixBlock.products`).

``B`` images · ``N`` queries · ``C`` channels · ``h, w`` cells
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence

import torch
from torch import Tensor, nn
from torch.nn import functional
from torch.nn.utils.parametrizations import spectral_norm

from diffground.errors import InputError
from diffground.papers.grounded.feature_maps import FeatureMap
from diffground.papers.grounded.module_config import GroundingModuleConfig
from diffground.training.norms import SharedBatchNorm2d

Size = tuple[int, int]
EPSILON = 1e-4  # of the norms, in all three public codes


def resized(maps: Tensor, size: Size) -> Tensor:
    """Maps (B, C, h, w) interpolated to ``size``, bilinearly."""
    if tuple(maps.shape[-2:]) == size:
        return maps
    return functional.interpolate(maps, size=size, mode="bilinear", align_corners=False)


class MixBlock(nn.Module):
    """Two 3x3 convolutions with spectral norm, each after a batch norm and a ReLU, and a shortcut.

    The shortcut starts behind the first ReLU, as in the public codes, whose ReLU works in place. It
    is the identity where the width stays, else a 1x1 convolution.
    """

    def __init__(self, width: int, out_width: int) -> None:
        super().__init__()
        self.norm1 = SharedBatchNorm2d(width, EPSILON)
        self.norm2 = SharedBatchNorm2d(out_width, EPSILON)
        self.conv1 = _normed(width, out_width, 3)
        self.conv2 = _normed(out_width, out_width, 3)
        self.shortcut = _normed(width, out_width, 1) if width != out_width else None

    def forward(self, maps: Tensor) -> Tensor:
        """Maps (B, out_width, h, w) of maps (B, width, h, w)."""
        start, inner = self._inside(maps)
        return self.conv2(inner) + (start if self.shortcut is None else self.shortcut(start))

    def products(self, maps: Tensor, embeddings: Tensor) -> Tensor:
        """``embeddings · forward(maps)`` (B, N, h, w), for embeddings (B, N, out_width).

        The block's output, which would be the largest tensor of all, is never made.
        """
        start, inner = self._inside(maps)
        kernels = torch.einsum("bnc,cdij->bndij", embeddings, self.conv2.weight)
        products = _convolved_each(inner, kernels)
        bias = self.conv2.bias
        assert bias is not None
        direct = embeddings
        if self.shortcut is not None:
            assert self.shortcut.bias is not None
            bias = bias + self.shortcut.bias
            direct = embeddings @ self.shortcut.weight.flatten(1)
        products = products + torch.einsum("bnc,bchw->bnhw", direct, start)
        return products + (embeddings @ bias)[..., None, None]

    def _inside(self, maps: Tensor) -> tuple[Tensor, Tensor]:
        """What the shortcut and what the second convolution start from."""
        # In place: nobody else needs a norm's output, and no maps are larger.
        start = self.norm1(maps).relu_()
        return start, self.norm2(self.conv1(start)).relu_()


def _normed(width: int, out_width: int, kernel: int) -> nn.Conv2d:
    """A convolution that keeps the size, with spectral norm."""
    conv = nn.Conv2d(width, out_width, kernel, padding=kernel // 2)
    spectral_norm(conv, eps=EPSILON)
    return conv


def _convolved_each(maps: Tensor, kernels: Tensor) -> Tensor:
    """Maps (B, C, h, w), each convolved with its own kernels (B, N, C, 3, 3): (B, N, h, w)."""
    batch, number = kernels.shape[:2]
    together = functional.conv2d(
        maps.flatten(0, 1)[None], kernels.flatten(0, 1), padding=1, groups=batch
    )
    return together.unflatten(1, (batch, number))[0]


class VisualEncoder(nn.Module):
    """The mixed map of every level.

    Args:
        maps: what the UNet gives, see :func:`~.feature_maps.feature_maps`.
        config: of which ``widths`` names a width for each level.

    Raises:
        InputError: the UNet has another number of levels.
    """

    def __init__(self, maps: Sequence[FeatureMap], config: GroundingModuleConfig) -> None:
        super().__init__()
        levels = sorted({each.level for each in maps}, reverse=True)  # the coarsest first
        if len(levels) != len(config.widths):
            raise InputError(
                "module",
                "widths",
                f"{len(config.widths)} widths, but the UNet's maps have {len(levels)} levels: give "
                "a width for each, from the coarsest",
            )
        folded = 2 if config.guided else 1
        self.pyramid = config.pyramid
        self.maps = tuple(tuple(m for m in maps if m.level == level) for level in levels)
        self.channels = {each.name: folded * each.channels for each in maps}
        self.standardize = nn.ModuleDict(
            {_key(each): SharedBatchNorm2d(self.channels[each.name], EPSILON) for each in maps}
            if config.standardized
            else {}
        )
        self.project = nn.ModuleList()
        self.mix = nn.ModuleList()
        self.widths: list[int] = []  # of the mixed maps
        for level, width in zip(self.maps, config.widths, strict=True):
            channels = sum(self.channels[each.name] for each in level)
            self.project.append(nn.Conv2d(channels, width, 1, bias=False))
            joined = width + sum(self.widths[-1:])
            if self.widths:
                self.mix.append(MixBlock(joined, joined))
            self.widths.append(joined)

    def forward(self, features: Mapping[str, Tensor]) -> list[Tensor]:
        """The mixed maps (B, C, h, w), coarse to fine, each resized to the next level's grid.

        The last is twice as large as its level's grid with a pyramid, else it has that grid.

        Args:
            features: (B, C, h, w) by name, all that the module was made for; (B, 2C, h, w) if it is
                guided, the unconditional channels first.

        Raises:
            InputError: a map is missing, or has other channels or another size than its level.
        """
        sizes = [self._checked(features, level) for level in self.maps]
        grids = [_doubled(size) for size in sizes]
        if not self.pyramid:
            grids[-1] = sizes[-1]
        following = [*grids[1:], _doubled(grids[-1]) if self.pyramid else grids[-1]]
        mixed: list[Tensor] = []
        for number, (level, project) in enumerate(zip(self.maps, self.project, strict=True)):
            assert isinstance(project, nn.Conv2d)
            parts = project.weight.split([self.channels[each.name] for each in level], dim=1)
            pairs = zip(level, parts, strict=True)
            here = _summed(
                functional.conv2d(self._read(each, features[each.name].to(part.dtype)), part)
                for each, part in pairs
            )
            here = resized(here, grids[number])
            if mixed:
                here = self.mix[number - 1](torch.cat([mixed[-1], here], dim=1))
            mixed.append(resized(here, following[number]))
        return mixed

    def _read(self, each: FeatureMap, maps: Tensor) -> Tensor:
        """A map (B, C, h, w) as it enters."""
        return self.standardize[_key(each)](maps) if self.standardize else maps

    def _checked(self, features: Mapping[str, Tensor], level: Sequence[FeatureMap]) -> Size:
        """The size of a level's maps."""
        for each in level:
            if each.name not in features:
                reason = "is missing: take the maps that GroundingModule.maps names"
                raise InputError("features", each.name, reason)
            channels = features[each.name].shape[1]
            if channels != self.channels[each.name]:
                raise InputError(
                    "features",
                    each.name,
                    f"{channels} channels, but the module reads {self.channels[each.name]}: it is "
                    "for another diffusion model, or guided where the features are not",
                )
        height, width = features[level[0].name].shape[-2:]
        for each in level:
            other = tuple(features[each.name].shape[-2:])
            if other != (height, width):
                reason = f"{other} cells, but {level[0].name} has {(height, width)}"
                raise InputError("features", each.name, reason)
        return height, width


def _key(each: FeatureMap) -> str:
    """A map's name, as a module may be called: without dots."""
    return each.name.replace(".", "_")


def _doubled(size: Size) -> Size:
    return 2 * size[0], 2 * size[1]


def _summed(tensors: Iterator[Tensor]) -> Tensor:
    total = next(tensors)
    for each in tensors:
        total = total + each
    return total
