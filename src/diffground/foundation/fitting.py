"""How every part of the foundation is trained: where its checkpoints and its losses lie."""

from __future__ import annotations

import json
from collections.abc import Callable
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from safetensors.torch import load_file, save_file
from torch import Tensor, nn
from torch.utils.data import Dataset

from diffground.foundation.config import FoundationRecipe
from diffground.foundation.scenes import CaptionedScene, captioned_scenes
from diffground.io.files import is_sound, write_whole
from diffground.store.manifest import config_hash
from diffground.training.config import TrainConfig
from diffground.training.loop import train
from diffground.world.config import Canvas

PARTS = ("draft", "autoencoder", "diffusion", "turbo", "clip", "vit", "segmenter")
LOSSES = "losses.json"


@dataclass(frozen=True)
class Workshop:
    """A recipe, how its scenes are drawn, where its parts are trained, who is told of losses."""

    recipe: FoundationRecipe
    canvas: Canvas
    folder: Path
    on_log: Callable[[dict[str, float], int], None] | None = None

    def scenes(self, count: int, mixed: float = 0.0) -> list[CaptionedScene]:
        """The first ``count`` training scenes; see :func:`captioned_scenes`."""
        source = self.recipe.scenes
        return captioned_scenes(
            source.seed, count, self.canvas, mixed=mixed, simple=source.simple, mugs=source.mugs
        )

    @property
    def checkpoints(self) -> Path:
        """Where trainings go on from: apart for every set of training scenes."""
        scenes = {"scenes": self.recipe.scenes.model_dump(), "canvas": self.canvas._asdict()}
        return self.folder / "checkpoints" / config_hash(scenes)

    def kept(self, name: str, make: Callable[[], Tensor]) -> Tensor:
        """A tensor that takes minutes to make, made once and kept beside the checkpoints."""
        path = self.checkpoints / f"{name}.safetensors"
        if not (path.exists() and is_sound(path)):
            made = {"values": make().contiguous()}
            write_whole(path, lambda part: save_file(made, part), sealed=True)
        return load_file(path)["values"]

    def fit(
        self,
        part: str,
        model: nn.Module,
        loss_fn: Callable[[nn.Module, Any], dict[str, Tensor]],
        dataset: Dataset[Any],
        config: TrainConfig,
        key: str,
        *,
        collate: Callable[[list[Any]], Any] | None = None,
        below: str = "",
    ) -> None:
        """Trains a part, or goes on, and keeps the history of its losses in its folder.

        The loop itself refuses checkpoints of another ``key``. ``below`` names a folder for a
        second training of the part.
        """
        result = train(
            model=model,
            loss_fn=loss_fn,
            dataset=dataset,
            config=config,
            folder=self.checkpoints / part / below,
            collate=collate,
            on_log=self.on_log,
            key=key,
            description=part,
        )
        path = self.folder / part / below / LOSSES
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(json.dumps(list(result.history), indent=1) + "\n", "utf-8")

    def last_losses(self) -> dict[str, dict[str, float]]:
        """The last row of every training's history, by its folder: "clip", "diffusion/phase-1"."""
        files = (file for part in PARTS for file in (self.folder / part).rglob(LOSSES))
        return {
            file.parent.relative_to(self.folder).as_posix(): json.loads(file.read_text("utf-8"))[-1]
            for file in files
        }
