"""The modules by their names: at the public codes' sizes, and at that of the mini models.

It is apart from the network, and without torch: parameters are checked before anything is loaded.
"""

from __future__ import annotations

from collections.abc import Mapping
from typing import Final

from diffground.papers.grounded.module_config import GroundingModuleConfig

_GD = GroundingModuleConfig(
    features="layers",
    guided=True,
    standardized=False,
    pyramid=False,
    joint=True,
    widths=(16, 32, 64, 128),
    final_width=None,
    patch=4,
    width=512,
    heads=8,
    layers=3,
    ffn=2048,
    hidden=512,
    dropout=0.0,
)
_IMPROVED = {"features": "blocks", "joint": False, "dropout": 0.1}
_IOSD = GroundingModuleConfig(
    features="layers",
    guided=False,
    standardized=False,
    pyramid=True,
    joint=False,
    widths=(32, 64, 128),
    final_width=256,
    patch=4,
    width=512,
    heads=8,
    layers=3,
    ffn=2048,
    hidden=1024,
    dropout=0.3,
)
# The maps of the mini models' coarse levels are up to 4000 wide, those of the finest about 5.
_MINI = {"width": 64, "heads": 4, "ffn": 256, "standardized": True}
_MINI_GD = _GD.model_copy(update={**_MINI, "widths": (8, 8, 16, 32), "patch": 2, "hidden": 64})

#: The public codes' sizes, and the same modules at the size of the mini models.
MODULES: Final[Mapping[str, GroundingModuleConfig]] = {
    "gd": _GD,
    "improved": _GD.model_copy(update=_IMPROVED),
    "iosd": _IOSD,
    "mini-gd": _MINI_GD,
    "mini-improved": _MINI_GD.model_copy(update=_IMPROVED),
    "mini-iosd": _IOSD.model_copy(
        update={**_MINI, "widths": (8, 16, 32), "final_width": 32, "hidden": 128}
    ),
}
