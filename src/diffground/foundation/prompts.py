"""What the mini diffusion model is asked to paint: drawn prompts to measure, fixed ones to see."""

from __future__ import annotations

from dataclasses import dataclass
from typing import cast

import numpy as np

from diffground.seeds import derive_seed
from diffground.world.vocabulary import COLOURS, SETTINGS


@dataclass(frozen=True)
class Asked:
    """A prompt, and the things that its image should have."""

    text: str
    names: tuple[str, ...]  # of things, each once
    trained: bool = True  # False: no training scene has these things on this ground


def two_object_prompts(count: int, seed: int) -> list[Asked]:
    """Prompts as "a photo of a red ball and a blue cat on grass under sky".

    The two things belong to one setting. Prompt i depends on i and ``seed`` only.
    """
    prompts = []
    for index in range(count):
        rng = np.random.default_rng(derive_seed(seed, index, "two objects"))
        settings = [s for s in SETTINGS.values() if len(s.things) > 1]
        setting = settings[int(rng.integers(len(settings)))]
        names = cast(tuple[str, str], tuple(map(str, rng.choice(setting.things, 2, replace=False))))
        colours = rng.choice(tuple(COLOURS), 2)
        phrases = [f"a {colour} {name}" for colour, name in zip(colours, names, strict=True)]
        below, above = rng.choice(setting.below), rng.choice(setting.above)
        text = f"a photo of {phrases[0]} and {phrases[1]} on {below} under {above}"
        prompts.append(Asked(text.replace("a orange", "an orange"), names))
    return prompts


def bare(prompt: Asked) -> Asked:
    """The same things by their class names alone: "a photo of a ball and a cat"."""
    return Asked("a photo of " + " and ".join(f"a {name}" for name in prompt.names), prompt.names)


def _asked(words: str, *names: str, trained: bool = True) -> Asked:
    return Asked(f"a photo of {words}", names, trained)


# Boats and cars keep to their ground: what else stands there strays onto water or road, they hardly
# ever leave them. So among the 30,000 scenes of the CPU recipe a car and a mug meet on roads and
# never on sand: the last eight things and grounds are in no training scene together.
PICTURES: tuple[Asked, ...] = (
    _asked("a ball", "ball"),
    _asked("a cat", "cat"),
    _asked("a car", "car"),
    _asked("a mug", "mug"),
    _asked("a blue kite on sand under sky", "kite"),
    _asked("a red boat on water under sunset", "boat"),
    _asked("a green tree on snow under sky", "tree"),
    _asked("a white house on grass under forest", "house"),
    _asked("a yellow cart on road under sky", "cart"),
    _asked("a black bird on grass under sky", "bird"),
    _asked("a purple bottle on floor under wall", "bottle"),
    _asked("an orange vase on floor under wall", "vase"),
    _asked("a red book on floor under wall", "book"),
    _asked("a yellow lamp on floor under wall", "lamp"),
    _asked("a striped red ball on grass under sky", "ball"),
    _asked("three blue mugs on floor under wall", "mug"),
    _asked("a red ball and a black cat on grass under sky", "ball", "cat"),
    _asked("a white boat and a red bird on water under sky", "boat", "bird"),
    _asked("a blue car and a white house on road under forest", "car", "house"),
    _asked("a green cart and a purple tree on road under sunset", "cart", "tree"),
    _asked("a yellow kite and a blue ball on sand under sky", "kite", "ball"),
    _asked("a white mug and a green lamp on floor under wall", "mug", "lamp"),
    _asked("a red vase and a black bottle on floor under wall", "vase", "bottle"),
    _asked("an orange book and a white cat on floor under wall", "book", "cat"),
    _asked("a red boat and a blue car on grass under sky", "boat", "car", trained=False),
    _asked("a yellow boat and a red cart on snow under sunset", "boat", "cart", trained=False),
    _asked("a blue car and a white mug on sand under sky", "car", "mug", trained=False),
    _asked("a green boat and a yellow lamp on road under wall", "boat", "lamp", trained=False),
    _asked("a black cart and a red book on sand under sunset", "cart", "book", trained=False),
    _asked("a white boat and a purple vase on snow under sky", "boat", "vase", trained=False),
    _asked("an orange car and a green bottle on snow under forest", "car", "bottle", trained=False),
    _asked("a purple cart and a blue kite on grass under sky", "cart", "kite", trained=False),
)
