"""What lets a frozen network take less time, and changes its results by roundings at most.

Attention needs nothing: where no map is asked for, it is torch's fused kernel (SDPA).
"""

from __future__ import annotations

from collections.abc import Iterable, Iterator, Mapping
from contextlib import contextmanager
from typing import Final

import torch
from diffusers.models.resnet import ResnetBlock2D
from torch import nn

BACKEND: Final = "inductor"
_FORMS: Final = (
    64  # more than the blocks of any released model have sizes; beyond, none is compiled
)


def quickened(network: nn.Module, *, compiled: bool = False) -> None:
    """Makes a UNet or VAE faster where it is.

    Convolutions get the order in memory that a GPU's tensor cores read. ``compiled`` compiles the
    residual blocks when they first run, once for every size: minutes at first. Attention stays out
    of it, and so does the pass as a whole: a probe looks into the one and ends the other early.
    """
    network.to(memory_format=torch.channels_last)  # type: ignore[call-overload]
    if not compiled:
        return
    from torch._dynamo import config

    config.recompile_limit = max(config.recompile_limit, _FORMS)
    for module in network.modules():
        if isinstance(module, ResnetBlock2D):
            module.forward = torch.compile(module.forward, backend=BACKEND)


@contextmanager
def as_written(modules: Mapping[str, nn.Module], paths: Iterable[str]) -> Iterator[None]:
    """Lets the compiled blocks that ``paths`` lead into run uncompiled: these see hooks."""
    inside = {name for path in paths for name in _above(path)}
    kept = {
        name: vars(modules[name]).pop("forward")
        for name in sorted(inside)
        if isinstance(modules.get(name), ResnetBlock2D) and "forward" in vars(modules[name])
    }
    try:
        yield
    finally:
        for name, forward in kept.items():
            modules[name].forward = forward


def _above(path: str) -> Iterator[str]:
    """The modules that one lies in."""
    parts = path.split(".")
    return (".".join(parts[:end]) for end in range(1, len(parts)))
