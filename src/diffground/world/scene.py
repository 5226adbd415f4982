"""Scenes: what is where, before anything is drawn. Deterministic per (seed, index)."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from diffground.seeds import derive_seed
from diffground.world.vocabulary import (
    ABOVE,
    BELOW,
    BOUND,
    BY_NAME,
    COLOURS,
    CONTENTS,
    FLYING,
    PATTERNS,
    SETTINGS,
    STRAY,
    THINGS,
    Category,
    Pattern,
    PersonalMug,
)

CROWD = 6  # instances in a crowd, which is one segment with `iscrowd`


@dataclass(frozen=True)
class Thing:
    """One instance. x is a fraction of the canvas' width, y (downwards) and size of its height."""

    category: Category
    colour: str
    pattern: Pattern
    x: float  # centre
    y: float  # foot
    size: float  # height and width of its box
    group: int  # index into Scene.groups
    flipped: bool = False
    content: str = ""  # of a mug
    personal: PersonalMug | None = None


@dataclass(frozen=True)
class Group:
    """Things that one phrase speaks of: 'two red balls', 'a blue mug', 'a crowd of birds'.

    Attributes:
        content: what a mug is said to be filled with.
        empty: it is said to be empty.
        beside: how it is said to stand, and by which other group: ("on", 2), ("next to", 2).
    """

    category: Category
    colour: str
    pattern: Pattern
    count: int
    crowd: bool = False
    content: str = ""
    empty: bool = False
    beside: tuple[str, int] | None = None


@dataclass(frozen=True)
class Scene:
    """Everything the renderer and the captions need. ``light`` is (brightness, slope, warmth)."""

    seed: int
    index: int
    above: Category
    below: Category
    horizon: float  # fraction of the height
    groups: tuple[Group, ...]
    things: tuple[Thing, ...]  # back to front
    light: tuple[float, float, float]


def rng_for(seed: int, index: int, draw: str) -> np.random.Generator:
    """The generator of one kind of draw of one scene."""
    return np.random.default_rng(derive_seed(seed, index, draw))


def sample_scene(seed: int, index: int, sizes: Sequence[float], *, simple: bool = False) -> Scene:
    """Draws scene ``index`` of the world ``seed``: one to three groups of things on a ground.

    Args:
        sizes: heights of things, as fractions of the canvas', where there are 1, 2, ... of them;
            where there are more, the last.
        simple: one thing, or two of another kind or colour.
    """
    rng = rng_for(seed, index, "scene")
    weights = np.array([setting.weight for setting in SETTINGS.values()])
    setting = list(SETTINGS.values())[int(rng.choice(len(weights), p=weights / weights.sum()))]
    above = BY_NAME[str(rng.choice(setting.above))]
    below = BY_NAME[str(rng.choice(setting.below))]
    groups: list[Group] = []
    number = int(rng.choice((1, 2, 3), p=(0.5, 0.5, 0.0) if simple else (0.25, 0.5, 0.25)))
    for _ in range(number):
        group = _group(rng, setting.things, bool(groups), alone=simple)
        if all((g.category, g.colour) != (group.category, group.colour) for g in groups):
            groups.append(group)
    horizon = float(rng.uniform(0.36, 0.56))
    things = _place(rng, groups, horizon, sizes)
    light = (
        float(rng.uniform(0.86, 1.08)),
        float(rng.uniform(-0.1, 0.1)),
        float(rng.uniform(-1, 1)),
    )
    return Scene(seed, index, above, below, horizon, tuple(groups), things, light)


def mixed_scene(scene: Scene, share: float) -> Scene:
    """``scene`` with its stuff drawn anew from all, each region with probability ``share``.

    Where one word of a caption follows from the others (floors have walls above them), a model need
    not learn which region it means. Vehicles keep their ground three times of four.
    """
    rng = rng_for(scene.seed, scene.index, "mixed")
    above = ABOVE[int(rng.integers(len(ABOVE)))] if rng.random() < share else scene.above
    bound = any(group.category.name in BOUND for group in scene.groups)
    below = scene.below
    if rng.random() < (share / 4 if bound else share):
        below = BELOW[int(rng.integers(len(BELOW)))]
    return replace(scene, above=above, below=below)


def _group(
    rng: np.random.Generator, usual: tuple[str, ...], others: bool, *, alone: bool = False
) -> Group:
    name = str(rng.choice(usual))
    if rng.random() < STRAY:
        stray = THINGS[int(rng.integers(len(THINGS)))]
        if stray.name not in BOUND or rng.random() < 0.1:
            name = stray.name
    category = BY_NAME[name]
    colour = str(rng.choice(tuple(COLOURS)))
    pattern = PATTERNS[int(rng.choice(3, p=(0.6, 0.2, 0.2)))]
    draw = rng.random()
    if not alone and draw < 0.05 and name in ("bird", "tree", "cat", "ball") and not others:
        return Group(category, colour, "plain", CROWD, crowd=True)
    count = 1 if alone or draw < 0.72 else 2 if draw < 0.92 else 3
    content = str(rng.choice(tuple(CONTENTS))) if name == "mug" and rng.random() < 0.6 else ""
    return Group(category, colour, pattern, count, content=content)


def _place(
    rng: np.random.Generator, groups: list[Group], horizon: float, sizes: Sequence[float]
) -> tuple[Thing, ...]:
    """Puts every instance where it overlaps the others little; gives up on the last of a group."""
    total = sum(group.count for group in groups)
    base = sizes[min(total, len(sizes)) - 1]
    placed: list[Thing] = []
    for index, group in enumerate(groups):
        flying = group.category.name in FLYING
        size = base * float(rng.uniform(0.85, 1.15)) * (0.75 if group.crowd else 1.0)
        centre = float(rng.uniform(0.3, 0.7))
        for _ in range(group.count):
            best: tuple[float, Thing] | None = None
            for _ in range(14):
                own = size * float(rng.uniform(0.9, 1.1))
                if flying:
                    low, high = min(own + 0.02, horizon), max(horizon, own + 0.05)
                else:
                    low, high = max(horizon + 0.1, own + 0.02), 0.97
                x = (
                    centre + float(rng.uniform(-0.28, 0.28))
                    if group.crowd
                    else float(rng.uniform(0, 1))
                )
                x = float(np.clip(x, own * 0.5, 1 - own * 0.5))
                y = float(rng.uniform(low, max(low, high)))
                if not flying:
                    own *= 0.85 + 0.3 * (y - horizon) / (1 - horizon)  # nearer is larger
                thing = Thing(
                    group.category,
                    group.colour,
                    group.pattern,
                    x,
                    y,
                    own,
                    index,
                    bool(rng.random() < 0.5),
                    group.content,
                )
                cost = max((_overlap(thing, other) for other in placed), default=0.0)
                if best is None or cost < best[0]:
                    best = (cost, thing)
                if cost < (0.45 if group.crowd else 0.12):
                    break
            assert best is not None
            placed.append(best[1])
    return tuple(sorted(placed, key=lambda thing: thing.y))


def _overlap(a: Thing, b: Thing) -> float:
    """Intersection of the two boxes over the smaller one."""
    width = min(a.x + a.size / 2, b.x + b.size / 2) - max(a.x - a.size / 2, b.x - b.size / 2)
    height = min(a.y, b.y) - max(a.y - a.size, b.y - b.size)
    return max(0.0, width) * max(0.0, height) / min(a.size, b.size) ** 2
