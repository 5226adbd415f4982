"""Rendered scenes with their words, held in memory."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor
from torch.utils.data import Dataset

from diffground.progress import progress
from diffground.world.captions import Caption, narrative, prompt
from diffground.world.config import Canvas
from diffground.world.mug_scenes import stage_plain
from diffground.world.render import Rendering, render
from diffground.world.scene import Scene, mixed_scene, rng_for, sample_scene


@dataclass(frozen=True)
class CaptionedScene:
    """A scene with everything known about it."""

    scene: Scene
    rendering: Rendering
    prompt: Caption
    bare: Caption  # the prompt without colours and patterns
    narrative: Caption


def captioned_scene(
    seed: int,
    index: int,
    canvas: Canvas,
    *,
    mixed: float = 0.0,
    simple: float = 0.0,
    mugs: float = 0.0,
) -> CaptionedScene:
    """Scene ``index`` of the world ``seed``.

    Args:
        mixed: share of stuff that is drawn anew, see :func:`mixed_scene`.
        simple: share of scenes of one or two single things, which is what the prompts of the
            papers that generate images have.
        mugs: share of scenes of mugs alone, full or empty, on and next to things.
    """
    draw = float(rng_for(seed, index, "simple").random())
    if draw >= 1 - mugs:
        scene = stage_plain(seed, index)
    else:
        scene = sample_scene(seed, index, canvas.sizes, simple=draw < simple)
    scene = mixed_scene(scene, mixed)
    rendering = render(scene, canvas.size)
    return CaptionedScene(
        scene,
        rendering,
        prompt(scene, rendering),
        prompt(scene, rendering, coloured=False),
        narrative(scene, rendering),
    )


def captioned_scenes(
    seed: int,
    count: int,
    canvas: Canvas,
    *,
    mixed: float = 0.0,
    simple: float = 0.0,
    mugs: float = 0.0,
) -> list[CaptionedScene]:
    """The first ``count`` scenes of the world ``seed``: 3 ms each on one core at 128 pixels."""
    return [
        captioned_scene(seed, i, canvas, mixed=mixed, simple=simple, mugs=mugs)
        for i in progress(range(count), "scenes")
    ]


class Scenes(Dataset[Any]):
    """Scenes as a model trains on them: what ``read`` makes of each when it is asked for."""

    def __init__(
        self, scenes: Sequence[CaptionedScene], read: Callable[[CaptionedScene], Any]
    ) -> None:
        self.scenes, self.read = scenes, read

    def __len__(self) -> int:
        return len(self.scenes)

    def __getitem__(self, index: int) -> Any:
        return self.read(self.scenes[index])


def picture(scene: CaptionedScene) -> Tensor:
    """The image of a scene, float (3, H, W) in [-1, 1]."""
    return to_tensor(scene.rendering.image)


def pictures(scenes: Sequence[CaptionedScene]) -> Tensor:
    """The images of several, (S, 3, H, W)."""
    return torch.stack([picture(scene) for scene in scenes])


def to_tensor(image: np.ndarray) -> Tensor:
    """uint8 RGB (H, W, 3) -> float (3, H, W) in [-1, 1]."""
    return (
        torch.from_numpy(np.ascontiguousarray(image)).permute(2, 0, 1).float().div_(127.5).sub_(1)
    )


def to_image(tensor: Tensor) -> np.ndarray:
    """float (3, H, W) in [-1, 1] -> uint8 RGB (H, W, 3)."""
    scaled = tensor.detach().float().cpu().add(1).mul(127.5).round().clamp(0, 255)
    return np.asarray(scaled.permute(1, 2, 0).to(torch.uint8).numpy())
