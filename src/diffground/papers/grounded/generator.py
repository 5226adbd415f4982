"""An image and its masks at once, from a prompt; or the masks of a photograph (003, 004).

generator = GroundedGenerator.from_pretrained("data/06_models/mini-sd", "path/of/the/module")
result = generator("a photo of a cat and a house", ["cat", "house"])
result.overlay().save("overlay.png")
photographed = generator.segment("photo.jpg", ["cat"])

Pictures are made as those that the module learned from: by the same steps, guidance and scheduler,
the last pass by itself, whose features are then read again, to the last bit.

``K`` classes asked for · ``H, W`` pixels of the image
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffground.attention.preprocess import prepare
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.latents import alpha_bar
from diffground.errors import InputError, shortened
from diffground.io.images import ImageSource, read_image
from diffground.masks.phrase_masks import PhraseMasks
from diffground.papers.grounded.data_config import GenerationConfig
from diffground.papers.grounded.features import features
from diffground.papers.grounded.generation import chosen_scheduler, generated, shown
from diffground.papers.grounded.module_config import Weights
from diffground.papers.grounded.prompts import Attempt
from diffground.papers.grounded.samples import Sample
from diffground.papers.grounded.trained import THRESHOLD, TrainedModule, load_module
from diffground.seeds import derive_seed

_LEAST_LEFT = 0.1  # of a photograph's part in the noisy latents; below, one sees noise alone


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class GroundedMasks(PhraseMasks):
    """An image and the masks of classes in it, which may overlap.

    A module that never learned what a class looks like where there is none may mark half the image
    for one that is not there (003, section 5): ``scores``, mean probabilities inside the masks, say
    little about that.
    """

    probabilities: NDArray[np.float32]  # (K, H, W) in [0, 1]; a mask is where they are over 0.5
    prompt: str  # what the frozen model read
    seed: int  # that was asked for
    timestep: float  # of the pass whose features were read
    seen: tuple[bool, ...]  # K, whether the module has learned from the class

    @property
    def maps(self) -> NDArray[np.float32]:
        """:attr:`probabilities`."""
        return self.probabilities

    def notes(self) -> list[str]:
        """Each class's score, and whether the module never saw the class in its training."""
        return [
            note + ("" if seen else ", unseen")
            for note, seen in zip(super().notes(), self.seen, strict=True)
        ]


class GroundedGenerator:
    """A frozen diffusion model that says of what it generates where everything is."""

    def __init__(self, trained: TrainedModule, generation: GenerationConfig | None = None) -> None:
        """``generation`` is how pictures are made; None: as those that the module learned from.

        Raises InputError for a scheduler that does not go with the model's folder, and for no
        guidance where the module reads both its halves.
        """
        self.trained = trained
        self.generation = trained.card.generation if generation is None else generation
        chosen_scheduler(self.model, self.generation)
        if trained.card.module.guided and self.generation.guidance <= 1:
            reason = (
                f"{self.generation.guidance:g} is none, and the module reads the features of both "
                "halves of guidance: take a scale above 1"
            )
            raise InputError("generation", "guidance", reason)

    @property
    def model(self) -> FrozenDiffusion:
        """The frozen model."""
        return self.trained.model

    def __repr__(self) -> str:
        card, steps = self.trained.card, self.generation.steps
        made = f"{steps} step{'s' if steps > 1 else ''}, {len(card.classes)} classes learned"
        return f"<GroundedGenerator in {self.model.folder.name}: module {card.name}, {made}>"

    @classmethod
    def from_pretrained(
        cls,
        diffusion: str | Path,
        module: str | Path,
        *,
        generation: GenerationConfig | None = None,
        weights: Weights = "best",
        other_model: bool = False,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """From the folder of a frozen model, and that of a module that was trained on it.

        Args:
            diffusion: a local folder in diffusers layout, SD 1.x, 2.x or SDXL.
            module: a folder with ``module.json``.
            generation: see :meth:`__init__`.
            weights: the best ones on validation samples, or the last.
            other_model: allows a fine-tuned checkpoint of the same kind (003, Table 6).

        Raises:
            InputError: a folder is missing or damaged, the module was trained on another model, or
                the scheduler does not go with the model's folder.
        """
        model = FrozenDiffusion.from_pretrained(diffusion, device=device, dtype=dtype)
        trained = load_module(module, model, weights=weights, other_model=other_model)
        return cls(trained, generation)

    def __call__(self, prompt: str, classes: Sequence[str], *, seed: int = 42) -> GroundedMasks:
        """An image of a prompt, and where its classes are.

        Args:
            classes: words of the prompt, "cat" of "a photo of a cat and a sofa"; also such as the
                module has not learned from.
            seed: of the noise; the same one gives the same image.

        Raises:
            InputError: no classes, one that the prompt does not have, or one given twice.
        """
        return self.batch([prompt], [classes], [seed])[0]

    def batch(
        self, prompts: Sequence[str], classes: Sequence[Sequence[str]], seeds: Sequence[int]
    ) -> list[GroundedMasks]:
        """Several at once, as many as ``generation.batch`` says; see :meth:`__call__`.

        Args:
            prompts: as many as seeds.
            classes: of each image.

        Raises:
            InputError: as in :meth:`__call__`, before anything is made; or the numbers differ.
        """
        if isinstance(prompts, str) or not len(prompts) == len(classes) == len(seeds):
            reason = f"a list of them is needed, as long as the {len(seeds)} seeds and the classes"
            raise InputError("generator", "prompts", reason)
        asked = [
            Attempt(f"{number}", prompt, _checked(names), (), seed)
            for number, (prompt, names, seed) in enumerate(
                zip(prompts, classes, seeds, strict=True), start=1
            )
        ]
        for attempt in asked:
            attempt.check()
        size, found = self.generation.batch, []
        for start in range(0, len(asked), size):
            found += self._generated(asked[start : start + size])
        return found

    def segment(
        self,
        photo: ImageSource,
        classes: Sequence[str],
        *,
        prompt: str | None = None,
        timestep: int | None = None,
        item: str = "photo",
        seed: int = 42,
    ) -> GroundedMasks:
        """Where classes are in a photograph: a file, a Pillow picture, or an array.

        The module reads features of an image that is being generated. A photograph takes one step
        of the forward process instead, and the UNet one pass over what came of it (the way out that
        003 names in section 5). It keeps its aspect; its longer side becomes that of the pictures
        which the module learned from, its sides multiples of what the UNet halves.

        Args:
            prompt: what the UNet reads meanwhile; None: "a photo of a cat and a sofa", of the
                classes.
            timestep: how much noise, a 0-based index into the training schedule. None takes that of
                the pass that the module learned from, the last one of generation, where there is
                nearly none. A module of a model with one step (SDXL-Turbo) learned from pure
                noise: for it a lower one has to be named, which it never saw.
            item: decides the noise, with ``seed``.

        Raises:
            InputError: the photo cannot be read, no classes are given or one twice, there is no
                such timestep, or it leaves nothing of the photo.
        """
        names = _checked(classes)
        pixels = read_image(photo)
        step = round(self.trained.card.timestep) if timestep is None else timestep
        left = math.sqrt(alpha_bar(self.model.scheduler, step))
        if left < _LEAST_LEFT:
            reason = (
                f"at {step} the photo is {left:.0%} of what the model reads, the rest is noise: "
                "name a lower one, such as timestep=50"
            )
            raise InputError("photo", "timestep", reason)
        text = "a photo of " + " and ".join(f"a {name}" for name in names)
        noise = derive_seed(seed, item, "photo")
        canvas, geometry = prepare(self.model, pixels, "paper", max(self.trained.card.size))
        with torch.no_grad():
            latents = self.model.encode_images(canvas)
            noisy = self.model.add_noise(latents, step, [noise])[0]
        sample = self._sample(
            Attempt(item, text if prompt is None else prompt, names, (), seed), noisy, float(step)
        )
        probabilities = self._probabilities([sample])[0]
        return self._result(pixels, sample, geometry.to_image(probabilities, "paper"))

    def _generated(self, attempts: Sequence[Attempt]) -> list[GroundedMasks]:
        last = generated(self.model, attempts, self.generation)
        if not bool(last.latents.isfinite().all()):
            reason = "the latents are not finite: load the model in bfloat16 or float32"
            raise InputError(self.model.folder, "dtype", reason)
        samples = [
            self._sample(attempt, latent, last.timestep)
            for attempt, latent in zip(attempts, last.entering, strict=True)
        ]
        return [
            self._result(shown(self.model, picture), sample, probabilities)
            for picture, sample, probabilities in zip(
                last.latents, samples, self._probabilities(samples), strict=True
            )
        ]

    def _sample(self, attempt: Attempt, entering: Tensor, timestep: float) -> Sample:
        """As samples are read from a set, but for the true masks, which nobody knows."""
        return Sample(
            id=attempt.id,
            prompt=attempt.prompt,
            names=attempt.names,
            seed=attempt.seed,
            latent=entering.to("cpu", torch.float16),
            timestep=timestep,
            guided=self.generation.guidance > 1,
            picture=entering,
            masks=np.zeros((0, 0, 0), bool),
        )

    def _probabilities(self, samples: Sequence[Sample]) -> list[Tensor]:
        """(K, H, W) of each, at the size of what the model saw."""
        guided = self.trained.card.module.guided
        found = features(self.model, samples, self.trained.modules, guided=guided)
        masks = self.trained.masks(found, [sample.names for sample in samples])
        return [each.cpu() for each in masks]

    def _result(
        self, image: NDArray[np.uint8], sample: Sample, probabilities: Tensor
    ) -> GroundedMasks:
        sure = probabilities.numpy().astype(np.float32)
        masks = sure > THRESHOLD
        scores = [
            round(float(each[mask].mean()), 4) if mask.any() else None
            for each, mask in zip(sure, masks, strict=True)
        ]
        return GroundedMasks(
            image=image,
            phrases=sample.names,
            masks=masks,
            scores=tuple(scores),
            score="mean probability inside the mask",
            probabilities=sure,
            prompt=sample.prompt,
            seed=sample.seed,
            timestep=sample.timestep,
            seen=tuple(name in self.trained.card.classes for name in sample.names),
        )


def _checked(classes: Sequence[str]) -> tuple[str, ...]:
    """The class names; InputError for none, for a text, and for one twice."""
    if isinstance(classes, str):
        raise InputError("classes", "classes", f"a list is needed, not {shortened(classes)}")
    names = tuple(classes)
    if not names or not all(name.strip() for name in names):
        raise InputError("classes", "classes", "none is given, or an empty one: name one at least")
    if len({*names}) < len(names):
        raise InputError("classes", "classes", f"one is given twice: {', '.join(names)}")
    return names
