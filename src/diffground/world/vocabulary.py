"""What the mini world is made of: categories, colours, patterns, and the nineteen mugs."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Literal

Pattern = Literal["plain", "striped", "dotted"]
PATTERNS: tuple[Pattern, ...] = ("plain", "striped", "dotted")

COLOURS: dict[str, tuple[int, int, int]] = {
    "red": (206, 44, 40),
    "orange": (240, 138, 30),
    "yellow": (246, 214, 56),
    "green": (44, 148, 62),
    "blue": (46, 84, 204),
    "purple": (136, 58, 168),
    "white": (242, 240, 234),
    "black": (38, 38, 44),
}

# What a mug can be filled with, and the colour of its surface.
CONTENTS: dict[str, tuple[int, int, int]] = {
    "cola": (62, 28, 16),
    "milk": (250, 248, 240),
    "juice": (250, 170, 40),
    "tea": (150, 176, 60),
}


@dataclass(frozen=True)
class Category:
    """A row of the category table, things and stuff alike."""

    id: int  # as in the panoptic JSON; not contiguous, as in COCO
    name: str
    plural: str
    is_thing: bool
    supercategory: str


# `car`/`cart` are a pair whose names are alike, `bottle`/`vase` one whose silhouettes are.
THINGS: tuple[Category, ...] = (
    Category(1, "ball", "balls", True, "toy"),
    Category(2, "kite", "kites", True, "toy"),
    Category(4, "car", "cars", True, "vehicle"),
    Category(5, "cart", "carts", True, "vehicle"),
    Category(6, "boat", "boats", True, "vehicle"),
    Category(9, "bird", "birds", True, "animal"),
    Category(10, "cat", "cats", True, "animal"),
    Category(13, "tree", "trees", True, "outdoor"),
    Category(14, "house", "houses", True, "outdoor"),
    Category(17, "mug", "mugs", True, "household"),
    Category(18, "bottle", "bottles", True, "household"),
    Category(19, "vase", "vases", True, "household"),
    Category(22, "book", "books", True, "household"),
    Category(23, "lamp", "lamps", True, "household"),
)

ABOVE: tuple[Category, ...] = (  # stuff above the horizon
    Category(92, "sky", "sky", False, "solid"),
    Category(93, "sunset", "sunset", False, "solid"),
    Category(95, "wall", "wall", False, "building"),
    Category(97, "forest", "forest", False, "plant"),
)
BELOW: tuple[Category, ...] = (  # stuff below it
    Category(100, "grass", "grass", False, "plant"),
    Category(101, "sand", "sand", False, "ground"),
    Category(103, "water", "water", False, "ground"),
    Category(104, "road", "road", False, "ground"),
    Category(107, "floor", "floor", False, "ground"),
    Category(109, "snow", "snow", False, "ground"),
)
STUFF = ABOVE + BELOW
CATEGORIES = THINGS + STUFF
BY_NAME: dict[str, Category] = {category.name: category for category in CATEGORIES}


# Where things belong: the ground below them, the stuff above, and what else stands there.
# `weight` is how often a setting is drawn; `stray` of the things come from anywhere.
@dataclass(frozen=True)
class Setting:
    """A kind of place, with the stuff and the things that belong to it."""

    weight: float
    above: tuple[str, ...]
    below: tuple[str, ...]
    things: tuple[str, ...]


SETTINGS: dict[str, Setting] = {
    "meadow": Setting(
        3.0,
        ("sky", "sunset", "forest"),
        ("grass", "snow"),
        ("ball", "cat", "tree", "house", "bird", "kite"),
    ),
    "beach": Setting(1.5, ("sky", "sunset"), ("sand",), ("ball", "bird", "kite", "bottle", "tree")),
    "sea": Setting(2.0, ("sky", "sunset", "forest"), ("water",), ("boat", "bird")),
    "street": Setting(
        2.5, ("sky", "sunset", "forest", "wall"), ("road",), ("car", "cart", "house", "tree")
    ),
    "room": Setting(
        3.0, ("wall",), ("floor",), ("mug", "bottle", "vase", "book", "lamp", "cat", "ball")
    ),
}
STRAY = 0.12  # chance that a thing is drawn from all of them (a boat on grass, a car on water)
BOUND = frozenset({"boat", "car", "cart"})  # these stray ten times less often
FLYING = frozenset({"bird", "kite"})  # drawn above the horizon

CLASS_SPLITS = 4  # ways to part the things, each of them unseen in one


def seen_and_unseen(split: int) -> tuple[tuple[Category, ...], tuple[Category, ...]]:
    """The things that a grounding module learns from, and those that it never sees.

    The diffusion model knows them all. The papers leave 5 of VOC's 20 classes out (003, Table 1),
    in several splits (004). Here split k of 1 to :data:`CLASS_SPLITS` leaves out every fourth thing
    of the table, from the k-th on: a rule that looks at no result. Every setting keeps seen things.

    Raises ValueError for another split.
    """
    if not 1 <= split <= CLASS_SPLITS:
        raise ValueError(f"class split {split} is not in 1 … {CLASS_SPLITS}")
    unseen = THINGS[split - 1 :: CLASS_SPLITS]
    return tuple(thing for thing in THINGS if thing not in unseen), unseen


Decoration = Literal["band", "stripes", "dots", "checks", "heart", "star", "zigzag"]


@dataclass(frozen=True)
class PersonalMug:
    """One of the nineteen mugs of the mini Mug19: its body, and its decoration."""

    id: str
    body: tuple[int, int, int]
    ink: tuple[int, int, int]
    decoration: Decoration


def _mug(number: int, body: str, ink: str, decoration: Decoration) -> PersonalMug:
    return PersonalMug(f"mug{number:02d}", COLOURS[body], COLOURS[ink], decoration)


# Mugs that share a body colour are visual distractors of one another.
PERSONAL_MUGS: tuple[PersonalMug, ...] = (
    _mug(1, "white", "red", "heart"),
    _mug(2, "white", "blue", "stripes"),
    _mug(3, "white", "black", "dots"),
    _mug(4, "white", "green", "band"),
    _mug(5, "red", "white", "band"),
    _mug(6, "red", "yellow", "star"),
    _mug(7, "red", "black", "checks"),
    _mug(8, "blue", "white", "dots"),
    _mug(9, "blue", "yellow", "zigzag"),
    _mug(10, "blue", "orange", "band"),
    _mug(11, "green", "white", "star"),
    _mug(12, "green", "yellow", "stripes"),
    _mug(13, "yellow", "red", "zigzag"),
    _mug(14, "yellow", "black", "stripes"),
    _mug(15, "black", "white", "checks"),
    _mug(16, "black", "red", "dots"),
    _mug(17, "purple", "white", "heart"),
    _mug(18, "purple", "yellow", "band"),
    _mug(19, "orange", "blue", "zigzag"),
)
