"""Where the papers' layer numbers are in a UNet, and which layers a model folder prefers."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING

from diffground.config import Config
from diffground.errors import InputError
from diffground.io.files import load_config

if TYPE_CHECKING:
    from diffusers import UNet2DConditionModel

LAYERS_FILE = "diffground_layers.json"

_PAPER_BLOCKS = (
    *(f"down_blocks.{block}.attentions.{layer}" for block in (0, 1, 2) for layer in (0, 1)),
    "mid_block.attentions.0",
    *(f"up_blocks.{block}.attentions.{layer}" for block in (1, 2, 3) for layer in (0, 1, 2)),
)


def paper_layer(index: int) -> str:
    """The transformer block that the papers call layer ``index`` (0 to 15), in SD 1.x and 2.x.

    They count in the order of execution: 0 to 5 down, 6 middle, 7 to 15 up.
    """
    if not 0 <= index < len(_PAPER_BLOCKS):
        raise InputError(
            "layers", "index", f"{index} is not a layer: they go from 0 to {len(_PAPER_BLOCKS) - 1}"
        )
    return f"{_PAPER_BLOCKS[index]}.transformer_blocks.0"


CROSS_SITES = tuple(f"{paper_layer(index)}.attn2" for index in range(len(_PAPER_BLOCKS)))


def cross_sites(unet: UNet2DConditionModel) -> tuple[str, ...]:
    """The attn2 names of any UNet in the order of execution (``CROSS_SITES`` for SD 1.x)."""
    return tuple(site for block in _blocks(unet) for layer in block for site in layer)


def _blocks(unet: UNet2DConditionModel) -> list[list[list[str]]]:
    """The attn2 names by block with attention, then by transformer, in the order of execution."""
    named = {f"down_blocks.{i}": block for i, block in enumerate(unet.down_blocks)}
    named["mid_block"] = unet.mid_block
    named |= {f"up_blocks.{i}": block for i, block in enumerate(unet.up_blocks)}
    return [
        [
            [
                f"{name}.attentions.{i}.transformer_blocks.{j}.attn2"
                for j in range(len(transformer.transformer_blocks))
            ]
            for i, transformer in enumerate(block.attentions)
        ]
        for name, block in named.items()
        if getattr(block, "has_cross_attention", False)
    ]


class LayerTable(Config):
    """The layers that SelfCross reads: cross maps from ``cross``, the self map from ``self_layer``.

    ``note`` says how they were chosen.
    """

    cross: tuple[str, ...]
    self_layer: str
    note: str = ""

    @classmethod
    def of(cls, unet: UNet2DConditionModel) -> LayerTable:
        """The layers of Text2Mask (002, §5.1: cross 4 to 8, self 11), carried over to any UNet.

        In words: cross-attention in the lowest level with attention, the middle, and the first
        level up but for its last layer; self-attention in the second layer of the next level up.
        """
        blocks = _blocks(unet)
        downs = [block for block in blocks if block[0][0].startswith("down")]
        middle = [block for block in blocks if block[0][0].startswith("mid")]
        ups = [block for block in blocks if block[0][0].startswith("up")]
        if not downs or not ups:
            raise InputError("unet", "layers", "this UNet has no cross-attention to read")
        layers = [*downs[-1], *(layer for block in middle for layer in block), *ups[0][:-1]]
        finer = ups[min(1, len(ups) - 1)]
        affinity = finer[min(1, len(finer) - 1)][0]
        return cls(
            cross=tuple(site for layer in layers for site in layer),
            self_layer=affinity.removesuffix("attn2") + "attn1",
            note="Text2Mask, layers 4 to 8 and 11",
        )

    @classmethod
    def read(cls, folder: Path, unet: UNet2DConditionModel) -> LayerTable:
        """The table in the model folder's ``diffground_layers.json``, else that of :meth:`of`.

        Raises :class:`InputError` when the file is malformed or names layers that do not exist.
        """
        path = folder / LAYERS_FILE
        if not path.exists():
            return cls.of(unet)
        table = load_config(cls, path, "layers")
        sites = cross_sites(unet)
        for field, names in (("cross", table.cross), ("self_layer", (table.self_layer,))):
            known = sites if field == "cross" else tuple(s[:-5] + "attn1" for s in sites)
            for name in names:
                if name not in known:
                    raise InputError(path, field, f"{name!r} is not a layer of this UNet")
        return table
