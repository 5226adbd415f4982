"""Models that are loaded when they are first asked for: most runs find all made.

They are pickled without what was loaded: another process loads its own.
"""

from __future__ import annotations

from collections.abc import Callable
from functools import cached_property
from pathlib import Path
from typing import Any, Generic, Protocol, TypeVar

import torch

from diffground.backbone.folder import ModelFolder
from diffground.backbone.frozen import FrozenDiffusion
from diffground.training.processes import chosen_device


class Placed(Protocol):
    """The settings of an experiment that say where its frozen model is, and how precise."""

    @property
    def device(self) -> str:
        """Such as cpu, cuda:1, or auto."""

    @property
    def precision(self) -> str:
        """Such as float32, bfloat16 or float16."""

    @property
    def compile(self) -> bool:
        """Whether its blocks are compiled, see :mod:`diffground.backbone.speed`."""


Model = TypeVar("Model")


class Once(Generic[Model]):
    """What ``opening()`` returns, which is called when it is first asked for."""

    def __init__(self, opening: Callable[[], Model]) -> None:
        self._opening, self._opened = opening, list[Model]()

    def __call__(self) -> Model:
        """The same at every call."""
        if not self._opened:
            self._opened.append(self._opening())
        return self._opened[0]

    def __reduce__(self) -> tuple[type[Once[Model]], tuple[Callable[[], Model]]]:
        """Unopened."""
        return type(self), (self._opening,)


class Frozen:
    """The frozen model's folder: its hash, and the model itself once it is asked for."""

    def __init__(self, folder: Path, config: Placed) -> None:
        self.folder, self._config = folder, config

    def __getstate__(self) -> dict[str, Any]:
        """Without the model."""
        return {name: value for name, value in vars(self).items() if name != "model"}

    @cached_property
    def fingerprint(self) -> str:
        """Of the files, without loading them; a second for a full-size model."""
        return ModelFolder.check(self.folder).fingerprint()

    @cached_property
    def model(self) -> FrozenDiffusion:
        """On the device and in the precision asked for."""
        dtype: torch.dtype = getattr(torch, self._config.precision)
        device = chosen_device(self._config.device)
        return FrozenDiffusion.from_pretrained(
            self.folder, device=device, dtype=dtype, compiled=self._config.compile
        )
