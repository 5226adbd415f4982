"""What a personal token is learned from: its photos, augmented, and pictures of its class.

Custom Diffusion ("CD"), section 3.2 and its public code. A photo of any sides is read upright, cut
to the square in its middle, and enlarged or made smaller to the model's side. In two of three draws
it then becomes smaller, down to a third, and lies somewhere on grey; the loss counts only where it
is, but for a rim of one latent pixel. In the other draws it becomes 1.2 to 1.4 times as large, and
a part of it is taken. Prompts say "very small" below 0.6 and "close up" above 1.
"""

from __future__ import annotations

import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor
from torch.utils.data import Dataset

from diffground.errors import InputError, ProblemReport
from diffground.foundation.scenes import to_tensor
from diffground.io.images import ImageSource, read_image
from diffground.papers.personalized.learning_config import TokenLearningConfig
from diffground.seeds import derive_seed

log = logging.getLogger(__name__)

SMALL: Final = ("a far away ", "very small ")  # (code)
LARGE: Final = ("zoomed in ", "close up ")


@dataclass(frozen=True)
class Thing:
    """Something that is to get a token: what the token is, its class, and photos of it."""

    token: str
    word: str
    photos: tuple[NDArray[np.uint8], ...]  # RGB (H, W, 3), each of its own sides

    @classmethod
    def read(
        cls,
        token: str,
        word: str,
        photos: Sequence[ImageSource],
        report: ProblemReport | None = None,
    ) -> Thing:
        """Reads photos; those that cannot be read are named in the log, and left out.

        Args:
            report: takes them too.

        Raises:
            InputError: there is no photo, or none can be read; or there is no class word.
        """
        if isinstance(photos, str | Path | np.ndarray | Image.Image) or not photos:
            reason = f"{token} needs at least one photo; give a list of files or pictures"
            raise InputError("photos", "photos", reason)
        if not word.strip():
            raise InputError("photos", "word", f"{token} needs the word of its class, such as mug")
        report = ProblemReport() if report is None else report
        found, problems = [], []
        for number, photo in enumerate(photos):
            report.total += 1
            name = str(photo) if isinstance(photo, str | Path) else f"photo {number}"
            try:
                found.append(read_image(photo))
            except InputError as error:
                report.add(name, error)
                problems.append(error)
                log.warning("%s is skipped: %s", name, error)
        if not found:
            reason = f"none of {len(photos)} can be read; of the first: {problems[0].reason}"
            raise InputError(problems[0].file, "photos", reason)
        return cls(token, word, tuple(found))

    @property
    def subject(self) -> str:
        """As prompts name it, ``<new1> mug``."""
        return f"{self.token} {self.word}"


def squared(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    """The square in an image's middle, at ``side`` pixels: RGB ``(side, side, 3)``."""
    height, width = image.shape[:2]
    cut = min(height, width)
    top, left = (height - cut) // 2, (width - cut) // 2
    return _resized(image[top : top + cut, left : left + cut], side)


class Lessons(Dataset[dict[str, Any]]):
    """A photo each, with its prompt, and a picture of its class.

    Every draw depends on ``(seed, index)``. Several things take turns.
    """

    def __init__(
        self,
        things: Sequence[Thing],
        prior: Mapping[str, Sequence[Path]],
        config: TokenLearningConfig,
        *,
        side: int,
        stride: int,
    ) -> None:
        """``prior`` has the class pictures by class word, or nothing; ``side`` is the model's and
        ``stride`` the pixels of a latent's."""
        self.things, self.prior, self.config = things, prior, config
        self.side, self.stride = side, stride
        self._photos = [[squared(photo, side) for photo in thing.photos] for thing in things]

    def __len__(self) -> int:
        return self.config.train.max_steps * self.config.train.batch_size

    def name(self, index: int) -> str:
        """Which photo a draw is of."""
        thing, photo = self._which(index)
        return f"{self.things[thing].token}, photo {photo}"

    def __getitem__(self, index: int) -> dict[str, Any]:
        """``image`` (3, S, S) in [-1, 1], ``mask`` (1, s, s) of latents that count, ``prompt``;
        with pictures of the class also ``class_image`` and ``class_prompt``."""
        rng = np.random.default_rng(derive_seed(self.config.train.seed, index, "lesson"))
        number, photo = self._which(index)
        thing = self.things[number]
        image, mask, prefix = self._augmented(self._photos[number][photo], rng)
        template = self.config.templates[int(rng.integers(len(self.config.templates)))]
        lesson = {
            "image": image,
            "mask": mask,
            "prompt": prefix + template.format(thing.subject),
        }
        prior = self.config.class_pictures
        if prior is not None:
            files = self.prior[thing.word]
            # All once before any comes again, but for what the shuffling of indices does to it.
            picture = squared(read_image(files[index // len(self.things) % len(files)]), self.side)
            lesson["class_image"] = to_tensor(self._flipped(picture, rng))
            lesson["class_prompt"] = prior.prompt.format(word=thing.word)
        return lesson

    def _which(self, index: int) -> tuple[int, int]:
        number = index % len(self.things)
        return number, index // len(self.things) % len(self.things[number].photos)

    def _flipped(self, image: NDArray[np.uint8], rng: np.random.Generator) -> NDArray[np.uint8]:
        return image[:, ::-1] if rng.random() < self.config.flip else image

    def _augmented(
        self, photo: NDArray[np.uint8], rng: np.random.Generator
    ) -> tuple[Tensor, Tensor, str]:
        """The photo in [-1, 1], the latents that count, and what the prompt begins with."""
        side, grid = self.side, self.side // self.stride
        photo, mask = self._flipped(photo, rng), torch.ones(1, grid, grid)
        if not self.config.resize:
            return to_tensor(photo), mask, ""
        if rng.random() < 2 / 3:
            size = int(rng.integers(side // 3, side + 1))
        else:
            size = int(rng.integers(int(1.2 * side), int(1.4 * side)))
        top, left = (int(rng.integers(abs(side - size) + 1)) for _ in range(2))
        scaled = to_tensor(_resized(photo, size))
        if size > side:
            return scaled[:, top : top + side, left : left + side], mask, _one_of(LARGE, rng)
        image = torch.zeros(3, side, side)
        image[:, top : top + size, left : left + size] = scaled
        if size < side:
            rows, columns = (_inside(first, size, self.stride) for first in (top, left))
            mask = torch.zeros_like(mask)
            mask[:, rows, columns] = 1
        return image, mask, _one_of(SMALL, rng) if size < 0.6 * side else ""


def collate(lessons: Sequence[dict[str, Any]]) -> dict[str, Any]:
    """A batch: tensors stacked, prompts in a list."""
    batch: dict[str, Any] = {}
    for name, value in lessons[0].items():
        values = [lesson[name] for lesson in lessons]
        batch[name] = torch.stack(values) if isinstance(value, Tensor) else values
    return batch


def _inside(first: int, size: int, stride: int) -> slice:
    """The latents that lie inside of ``size`` pixels from ``first``, without their rim; at least
    the one in the middle."""
    start, stop = first // stride + 1, (first + size) // stride - 1
    middle = (first + size // 2) // stride
    return slice(min(start, middle), max(stop, middle + 1))


def _one_of(texts: Sequence[str], rng: np.random.Generator) -> str:
    return texts[int(rng.integers(len(texts)))]


def _resized(image: NDArray[np.uint8], side: int) -> NDArray[np.uint8]:
    if image.shape[:2] == (side, side):
        return image
    picture = Image.fromarray(np.ascontiguousarray(image))
    # Antialiased, as Pillow does; the code takes bilinear or bicubic.
    return np.array(picture.resize((side, side), Image.Resampling.BICUBIC))
