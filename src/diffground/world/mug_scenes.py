"""Stages personal mugs: which mugs meet in a scene, in which contexts, and how a view shows them.

A *context* is what is said of a mug beside its being a mug: what it is filled with, or where it
stands. What is said of one mug may be true of another (a semantic distractor: the text does not
tell them apart, their looks do), and one mug may look like another (a visual distractor: their
looks do not tell them apart, the text does). Paper 002, section 4.2.
"""

from __future__ import annotations

from dataclasses import dataclass, replace
from typing import Literal

import numpy as np

from diffground.seeds import derive_seed
from diffground.world.scene import Group, Scene, Thing, rng_for
from diffground.world.vocabulary import ABOVE, BELOW, BY_NAME, COLOURS, PERSONAL_MUGS, PersonalMug

Kind = Literal["plain", "semantic", "visual"]
# Of twenty scenes. Paper, of 2468 triplets: 440 with semantic, 170 with visual distractors.
KINDS: tuple[Kind, ...] = ("plain", "semantic", "plain", "plain", "semantic", "visual", "plain",
                           "semantic", "plain", "semantic", "plain", "visual", "semantic", "plain",
                           "plain", "semantic", "plain", "visual", "semantic", "plain")  # fmt: skip

ON_BOOK, BY_BOTTLE = "on a book", "next to a bottle"
SURROUNDINGS = (ON_BOOK, BY_BOTTLE)
PLACES = (("wall", "floor"), ("wall", "floor"), ("sky", "grass"), ("sunset", "sand"))

HALF_INK = ("checks", "stripes")  # half of such a mug is ink: it looks little like its body colour
COLOUR_NAMES = {rgb: name for name, rgb in COLOURS.items()}


@dataclass(frozen=True)
class StagedMug:
    """A mug in a scene. ``content`` "" is an empty mug, ``surrounding`` "" stands alone."""

    mug: PersonalMug
    content: str
    surrounding: str

    @property
    def context(self) -> str:
        """What the scene's triplet says: "a mug filled with cola", "a mug on a book"."""
        if self.surrounding:
            return f"a mug {self.surrounding}"
        return f"a mug filled with {self.content}" if self.content else "an empty mug"

    def fits(self, context: str) -> bool:
        """Whether ``context`` is true of this mug: of its content, or of its surrounding."""
        return context in (self.context, StagedMug(self.mug, self.content, "").context)


@dataclass(frozen=True)
class Arrangement:
    """A scene of Mug19: its mugs from left to right, the same in every view."""

    kind: Kind
    mugs: tuple[StagedMug, ...]
    above: str
    below: str

    def semantic_distractors(self, index: int) -> tuple[int, ...]:
        """The other mugs of which the context of mug ``index`` is true too."""
        context = self.mugs[index].context
        return tuple(i for i, m in enumerate(self.mugs) if i != index and m.fits(context))

    def visual_distractors(self, index: int) -> tuple[int, ...]:
        """The other mugs with the body colour of mug ``index``."""
        body = self.mugs[index].mug.body
        return tuple(i for i, m in enumerate(self.mugs) if i != index and m.mug.body == body)

    def variants(self, index: int) -> tuple[PersonalMug, ...]:
        """Mugs of the same series (decoration) as mug ``index`` that are not in the scene."""
        there = {staged.mug.id for staged in self.mugs}
        series = self.mugs[index].mug.decoration
        return tuple(m for m in PERSONAL_MUGS if m.decoration == series and m.id not in there)


def arrange(seed: int, scene: int) -> Arrangement:
    """Draws what meets in scene ``scene``: three to five mugs, of the kind ``KINDS`` gives.

    In a plain scene every context and every body colour is there once. In a semantic one two mugs
    of different colours share their context; in a visual one two of different contexts share their
    colour. Milk and an empty mug look alike, so a scene has one of them at most.
    """
    rng = rng_for(seed, scene, "arrangement")
    kind = KINDS[scene % len(KINDS)]
    count = int(rng.integers(3, 6))
    mugs = _mugs(rng, count, kind)
    contexts = _contexts(rng, count - (kind == "semantic"))
    if kind == "semantic":
        contexts.append(contexts[int(rng.integers(len(contexts)))])
    order = rng.permutation(count)
    staged = tuple(StagedMug(mugs[int(i)], *contexts[int(i)]) for i in order)
    above, below = PLACES[int(rng.integers(len(PLACES)))]
    return Arrangement(kind, staged, above, below)


def stage(arrangement: Arrangement, seed: int, scene: int, view: str, aspect: float) -> Scene:
    """One view: group ``i`` of the result is mug ``i``; what they stand on or by comes after.

    Args:
        view: name of the draw; another one shows the same things at other places and sizes, under
            another light.
        aspect: width of the canvas over its height: at least 1.5, or 1 for three mugs at most.
    """
    rng = rng_for(seed, scene, view)
    horizon = float(rng.uniform(0.3, 0.45))
    props = _Props(rng_for(seed, scene, "props"), len(arrangement.mugs))
    widths = [_width(staged) for staged in arrangement.mugs]
    side = float(rng.uniform(0.82, 1.0)) * min(0.44, 0.94 * aspect / (sum(widths) + 0.25))
    gaps = rng.dirichlet(np.full(len(widths) + 1, 4.0)) * (aspect - side * sum(widths))
    things: list[tuple[float, Thing]] = []  # with the depth they are sorted by
    left = 0.0
    for index, (staged, width, gap) in enumerate(
        zip(arrangement.mugs, widths, gaps[:-1], strict=True)
    ):
        left += float(gap)
        near = float(rng.uniform(0, 1))
        y = 0.96 - (1 - near) * max(0.0, 0.9 - max(horizon + 0.12, side + 0.04))
        own = side * (0.9 + 0.1 * near)
        flipped = bool(rng.random() < 0.5)
        x, foot = left + width * side / 2, y
        if staged.surrounding == ON_BOOK:
            foot = y - 0.2 * 1.5 * own
            things.append((y, props.thing("book", index, x / aspect, y, 1.5 * own)))
        elif staged.surrounding == BY_BOTTLE:
            on_left = props.on_left(index)
            x = left + side * (1.28 if on_left else 0.5)
            bottle = left + side * (0.55 if on_left else 1.23)
            flipped = not on_left  # the handle points away from the bottle
            things.append((y, props.thing("bottle", index, bottle / aspect, y, 1.1 * own)))
        mug = Thing(BY_NAME["mug"], COLOUR_NAMES[staged.mug.body], "plain", x / aspect, foot, own,
                    index, flipped, staged.content, staged.mug)  # fmt: skip
        things.append((y, mug))
        left += width * side
    groups = [
        Group(BY_NAME["mug"], COLOUR_NAMES[m.mug.body], "plain", 1, content=m.content)
        for m in arrangement.mugs
    ]
    return Scene(
        derive_seed(seed, scene, view),
        scene,
        BY_NAME[arrangement.above],
        BY_NAME[arrangement.below],
        horizon,
        (*groups, *props.groups),
        tuple(thing for _, thing in sorted(things, key=lambda pair: pair[0])),
        _light(rng),
    )


def stage_alone(mug: PersonalMug, seed: int, reference: int) -> Scene:
    """Reference picture ``reference`` of a mug: alone, of any size, anywhere."""
    number = PERSONAL_MUGS.index(mug)
    draw = f"reference {reference}"
    rng = rng_for(seed, number, draw)
    size = float(rng.uniform(0.45, 0.8))
    content = str(rng.choice(("", "", "", "cola", "milk", "juice", "tea")))
    thing = Thing(
        BY_NAME["mug"],
        COLOUR_NAMES[mug.body],
        "plain",
        float(rng.uniform(size / 2, 1 - size / 2)),
        float(rng.uniform(size + 0.02, 0.98)),
        size,
        0,
        bool(rng.random() < 0.5),
        content,
        mug,
    )
    group = Group(BY_NAME["mug"], COLOUR_NAMES[mug.body], "plain", 1, content=content)
    above, below = ABOVE[int(rng.integers(len(ABOVE)))], BELOW[int(rng.integers(len(BELOW)))]
    horizon = float(rng.uniform(0.3, 0.6))
    where = derive_seed(seed, number, draw)
    return Scene(where, number, above, below, horizon, (group,), (thing,), _light(rng))


def stage_plain(seed: int, index: int) -> Scene:
    """One to three mugs without decorations, for a square canvas: what every mug of the world is.

    A model that learned from such scenes knows what "filled with cola" or "on a book" mean, as a
    released one does, and none of the personal mugs.
    """
    rng = rng_for(seed, index, "plain mugs")
    count = int(rng.choice((1, 2, 3), p=(0.25, 0.5, 0.25)))
    white = "" if rng.random() < 0.5 else "milk"  # these look alike, as in :func:`arrange`
    contents = [str(c) for c in rng.permutation(["cola", "juice", "tea", white])]
    places = [""] * count
    if count < 3 and rng.random() < 0.6:  # more would make all of them small
        places[int(rng.integers(count))] = str(rng.choice(SURROUNDINGS))
    bodies = [COLOURS[str(colour)] for colour in rng.permutation(tuple(COLOURS))]
    mugs = tuple(
        StagedMug(PersonalMug("", body, body, "band"), content, place)
        for body, content, place in zip(bodies, contents, places, strict=False)
    )
    above, below = PLACES[int(rng.integers(len(PLACES)))]
    scene = stage(Arrangement("plain", mugs, above, below), seed, index, "plain", 1.0)
    groups, prop = list(scene.groups), count
    for number, mug in enumerate(mugs):
        group = groups[number]
        if mug.surrounding:
            group = replace(group, beside=("on" if mug.surrounding == ON_BOOK else "next to", prop))
            prop += 1
        if mug.surrounding and rng.random() < 0.5:
            group = replace(group, content="")  # of what is in it nothing is said
        elif not mug.content:
            group = replace(group, empty=True)
        groups[number] = group
    # Named in any order: the first in a caption need not stand on the left.
    order = [int(old) for old in rng.permutation(len(groups))]
    said = [groups[old] for old in order]
    for number, group in enumerate(said):
        if group.beside is not None:
            relation, by = group.beside
            said[number] = replace(group, beside=(relation, order.index(by)))
    things = tuple(
        replace(thing, personal=None, group=order.index(thing.group)) for thing in scene.things
    )
    return replace(scene, groups=tuple(said), things=things)


class _Props:
    """Books and bottles of a scene: their colours and sides are the same in every view."""

    def __init__(self, rng: np.random.Generator, first: int) -> None:
        self.colours = [str(colour) for colour in rng.choice(tuple(COLOURS), 5)]
        self.lefts = [bool(left) for left in rng.random(5) < 0.5]
        self.first = first
        self.groups: list[Group] = []

    def on_left(self, mug: int) -> bool:
        return self.lefts[mug]

    def thing(self, name: str, mug: int, x: float, y: float, size: float) -> Thing:
        category, colour = BY_NAME[name], self.colours[mug]
        self.groups.append(Group(category, colour, "plain", 1))
        group = self.first + len(self.groups) - 1
        return Thing(category, colour, "plain", x, y, size, group)


def _width(staged: StagedMug) -> float:
    """What a mug takes with its surrounding, and with some room behind a bottle, in its sides."""
    return {ON_BOOK: 1.5, BY_BOTTLE: 1.8}.get(staged.surrounding, 1.0)


def _mugs(rng: np.random.Generator, count: int, kind: Kind) -> list[PersonalMug]:
    """Mugs of different colours, each as likely as any; in a visual scene, two of one colour."""
    mugs = [PERSONAL_MUGS[int(i)] for i in rng.permutation(len(PERSONAL_MUGS))]
    chosen: list[PersonalMug] = []
    if kind == "visual":
        alike = [mug for mug in mugs if mug.decoration not in HALF_INK]
        first = next(m for m in alike if sum(m.body == other.body for other in alike) > 1)
        chosen += [mug for mug in alike if mug.body == first.body][:2]
    for mug in mugs:
        if len(chosen) < count and mug.body not in {other.body for other in chosen}:
            chosen.append(mug)
    assert len(chosen) == count, (count, kind)
    return chosen


def _contexts(rng: np.random.Generator, count: int) -> list[tuple[str, str]]:
    """``count`` pairs (content, surrounding) whose texts are each true of one pair only.

    A mug with a surrounding is filled with what no other mug is said to be filled with.
    """
    white = "" if rng.random() < 0.25 else "milk"
    contents = [str(c) for c in rng.permutation(["cola", "juice", "tea", white])]
    standing = 2 if count == 5 else int(rng.random() < 0.4)
    surroundings = [str(s) for s in rng.permutation(list(SURROUNDINGS))][:standing]
    said, rest = contents[: count - standing], contents[count - standing :]
    return [(c, "") for c in said] + [(rest[int(rng.integers(len(rest)))], s) for s in surroundings]


def _light(rng: np.random.Generator) -> tuple[float, float, float]:
    """As in ordinary scenes: brightness, slope, warmth."""
    draws = rng.uniform((0.86, -0.1, -1.0), (1.08, 0.1, 1.0))
    return float(draws[0]), float(draws[1]), float(draws[2])
