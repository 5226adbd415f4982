"""Pictures to begin with: scenes of the mini world, drawn when they are asked for."""

from __future__ import annotations

from dataclasses import dataclass
from functools import lru_cache
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffground.errors import InputError
from diffground.world.captions import Caption, class_names, narrative
from diffground.world.render import render
from diffground.world.scene import sample_scene

COUNT: Final = 6
_SEED: Final = 314  # of no dataset of the mini world
_SIZE, _SIZES = 256, (0.5, 0.4, 0.3)  # pixels of a side; heights of things, as fractions of it


@dataclass(frozen=True, eq=False)
class Sample:
    """A picture, uint8 RGB (H, W, 3), and what can be asked of it."""

    image: NDArray[np.uint8]
    words: str  # phrases between semicolons
    narrative: str  # with its phrases in brackets
    prompt: str  # of which such a picture could be generated


@lru_cache(maxsize=COUNT)
def sample(index: int) -> Sample:
    """One of the samples. Raises InputError if there is none of that number."""
    if not 0 <= index < COUNT:
        raise InputError("samples", "sample", f"{index} is none: they are 0 to {COUNT - 1}")
    scene = sample_scene(_SEED, index, _SIZES)
    rendering = render(scene, _SIZE)
    named = class_names(scene, rendering)
    words = "; ".join(dict.fromkeys(phrase.text for phrase in named.phrases))
    return Sample(rendering.image, words, _marked(narrative(scene, rendering)), named.text)


def _marked(caption: Caption) -> str:
    """The caption with its grounded phrases in brackets."""
    text = caption.text
    for phrase in reversed(caption.phrases):
        text = f"{text[: phrase.start]}[{phrase.text}]{text[phrase.end :]}"
    return text
