"""A trained grounding module on disk: weights, and all that one has to know to ask it::

    <folder>/module.safetensors   the best weights, by mIoU on validation samples
             last.safetensors     those of the last step
             module.json          a `ModuleCard`: its presence means finished

Files are sealed (``<file>.sha256``), as everything that was trained.

``B`` images · ``N`` queries · ``C`` channels
"""

from __future__ import annotations

from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from pydantic import ValidationError
from torch import Tensor

from diffground.backbone.frozen import FrozenDiffusion
from diffground.config import Config
from diffground.errors import InputError
from diffground.io.files import check_seal, is_sound, read_json, write_json
from diffground.papers.grounded.data_config import GenerationConfig
from diffground.papers.grounded.feature_maps import FeatureMap, feature_maps
from diffground.papers.grounded.features import FeatureSet, features
from diffground.papers.grounded.module import GroundingModule
from diffground.papers.grounded.module_config import GroundingModuleConfig, QueryConfig, Weights
from diffground.papers.grounded.queries import embed_queries
from diffground.papers.grounded.samples import Sample
from diffground.provenance import Made
from diffground.training.checkpoint import (
    load_weights,
    put_weights,
    save_weights,
    trainable_state,
)

CARD: Final = "module.json"
FILES: Final[Mapping[Weights, str]] = {
    "best": "module.safetensors",
    "last": "last.safetensors",
}
#: A pixel is in a mask whose probability is above it, in all public codes.
THRESHOLD: Final = 0.5
REMEDY: Final = "train it again with `kedro run --pipelines grounding_train`"


class ModuleCard(Config):
    """What a trained module is, and what it was trained on.

    Attributes:
        diffusion: name of the frozen model's folder.
        fingerprint: hash of its weights and configs.
        maps: which of its features are read.
        classes: names that the module has learned from; all others are unseen.
        size: (H, W) of the pictures.
        timestep: of the pass that the features are of; ``generation`` says how it was come to.
    """

    name: str  # in MODULES, or "own"
    module: GroundingModuleConfig
    query: QueryConfig
    diffusion: str
    fingerprint: str
    maps: tuple[FeatureMap, ...]
    text_width: int
    latent_stride: int
    classes: tuple[str, ...]
    size: tuple[int, int]
    timestep: float
    generation: GenerationConfig
    made: Made


@dataclass(frozen=True, eq=False)
class TrainedModule:
    """A module beside its frozen model, which is asked by class names."""

    module: GroundingModule
    model: FrozenDiffusion
    card: ModuleCard

    @property
    def threshold(self) -> float:
        """:data:`THRESHOLD`."""
        return THRESHOLD

    @cached_property
    def modules(self) -> tuple[str, ...]:
        """What is read of the UNet, by diffusers' names."""
        return tuple(each.name for each in self.module.maps)

    def masks(self, features: FeatureSet, names: Sequence[Sequence[str]]) -> list[Tensor]:
        """Probabilities (N, H, W) float32 of B images' names, at the pictures' size.

        Args:
            features: (B, C, h, w) by the names in :attr:`modules`; (B, 2C, h, w) if the module is
                guided (``card.module``), the unconditional half first.
            names: for each image; classes that it lacks may be among them.

        Raises:
            InputError: features of another model; no names, or one without a token.
        """
        queries, valid = embed_queries(self.model, names, self.card.query)
        logits = module_logits(self.module, features, queries, valid)
        return [each[: len(of)].sigmoid() for each, of in zip(logits, names, strict=True)]

    def scores(self, samples: Sequence[Sample]) -> list[NDArray[np.float32]]:
        """The same, (N, H, W), of synthetic samples, whose features are computed again."""
        found = features(self.model, samples, self.modules, guided=self.card.module.guided)
        masks = self.masks(found, [sample.names for sample in samples])
        return [each.cpu().numpy() for each in masks]


@torch.no_grad()
def module_logits(
    module: GroundingModule, features: FeatureSet, queries: Tensor, valid: Tensor
) -> Tensor:
    """Logits (B, N, H, W) float32 as they are measured: without dropout, by kept statistics."""
    device = next(module.parameters()).device
    placed = {name: maps.to(device) for name, maps in features.items()}
    with _evaluating(module):
        logits: Tensor = module(placed, queries.to(device), valid.to(device))
    return logits.float()


@contextmanager
def _evaluating(module: GroundingModule) -> Iterator[None]:
    """Evaluation mode, whatever mode the module is in."""
    before = module.training
    module.eval()
    try:
        yield
    finally:
        module.train(before)


def new_module(model: FrozenDiffusion, config: GroundingModuleConfig, seed: int) -> GroundingModule:
    """An untrained module for a frozen model; ``seed`` decides its weights."""
    with torch.random.fork_rng(devices=[]):
        torch.manual_seed(seed)
        maps = feature_maps(model.unet, config.features)
        return GroundingModule(maps, model.context_dim, model.latent_stride, config)


def save_module(
    folder: Path,
    card: ModuleCard,
    last: GroundingModule,
    best: Mapping[str, Tensor] | None = None,
) -> None:
    """Writes a module, the card last.

    Args:
        best: weights as :func:`~diffground.training.checkpoint.trainable_state` has them; without
            them the last ones are the best.
    """
    weights = trainable_state(last)
    save_weights(weights, folder / FILES["last"])
    save_weights(weights if best is None else dict(best), folder / FILES["best"])
    write_json(folder / CARD, card.model_dump(mode="json"), sealed=True)


def is_finished(folder: Path) -> bool:
    """Whether a module lies there, with its files as they were written."""
    paths = [folder / name for name in (*FILES.values(), CARD)]
    return all(path.exists() and is_sound(path) is not False for path in paths)


def read_card(folder: Path) -> ModuleCard:
    """What lies in a folder; InputError if it is no trained module, or was damaged."""
    path = folder / CARD
    if not path.exists():
        raise InputError(path, "file", f"it is missing, so no trained module is here; {REMEDY}")
    check_seal(path, REMEDY)
    content: Any = read_json(path)
    if content is None:
        raise InputError(path, "file", f"it cannot be read; {REMEDY}")
    try:
        return ModuleCard.model_validate(content)
    except ValidationError as error:
        wrong = error.errors()[0]
        field = ".".join(map(str, wrong["loc"]))
        raise InputError(path, field, f"{wrong['msg']}; {REMEDY}") from error


def load_module(
    folder: str | Path,
    model: FrozenDiffusion,
    *,
    weights: Weights = "best",
    other_model: bool = False,
) -> TrainedModule:
    """A trained module, in eval mode on the device of its frozen model.

    Args:
        other_model: allows another model with the same features, such as a fine-tuned checkpoint
            (003, Table 6); masks may then be worse.

    Raises:
        InputError: there is no trained module, or its files were damaged; or it was trained on
            another frozen model, or on other features than this one has.
    """
    folder = Path(folder)
    card = read_card(folder)
    path = folder / CARD
    is_another = f"the module was trained on {card.diffusion}, and {model.folder.name} has another"
    if tuple(feature_maps(model.unet, card.module.features)) != card.maps:
        reason = f"{is_another} UNet: load it with the model that it was trained on"
        raise InputError(path, "maps", reason)
    if (model.context_dim, model.latent_stride) != (card.text_width, card.latent_stride):
        reason = f"{is_another} text encoder or VAE: load it with the model that it was trained on"
        raise InputError(path, "text_width", reason)
    if not other_model and model.fingerprint() != card.fingerprint:
        reason = (
            f"{is_another} fingerprint: load it with the model that it was trained on, or pass "
            "other_model=True if it is a checkpoint of the same kind"
        )
        raise InputError(path, "fingerprint", reason)
    module = GroundingModule(card.maps, card.text_width, card.latent_stride, card.module)
    file = folder / FILES[weights]
    put_weights(module, load_weights(file, REMEDY), file)
    return TrainedModule(module.to(model.device).eval(), model, card)
