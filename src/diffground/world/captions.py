"""Words for a scene: short prompts, and narratives in the manner of Localized Narratives.

A caption is built from chunks, and the chunks are what the PNG benchmark stores as ``segments``:
non-nouns, ungrounded nouns ("picture"), and nouns with the groups they speak of.
"""

from __future__ import annotations

from dataclasses import dataclass

import numpy as np

from diffground.world.render import Rendering
from diffground.world.scene import CROWD, Group, Scene, rng_for

NUMBERS = {2: "two", 3: "three"}
# Those of the papers' prompts are among them (002, §3.3; 003, Table 3).
LEADS = ("a photo of", "a picture of", "an image of", "a photograph of", "a photo including")
ABOVE, BELOW = -1, -2  # the groups of the stuff, as in Segment.group


@dataclass(frozen=True)
class Chunk:
    """A piece of a caption. ``groups`` is empty unless the chunk is a grounded noun."""

    text: str
    noun: bool = False
    groups: tuple[int, ...] = ()
    plural: bool = False


@dataclass(frozen=True)
class Phrase:
    """A grounded noun phrase: ``caption.text[start:end]``."""

    text: str
    start: int
    end: int
    groups: tuple[int, ...]
    plural: bool


@dataclass(frozen=True)
class Caption:
    """A text and the chunks that together cover it."""

    text: str
    chunks: tuple[Chunk, ...]
    phrases: tuple[Phrase, ...]


def prompt(scene: Scene, rendering: Rendering, *, coloured: bool = True) -> Caption:
    """What can be seen: "a photo of a red ball and two blue mugs on grass under sky".

    Without colours it is "a ball and two mugs", as the class names of a segmentation task are.
    """
    rng = rng_for(scene.seed, scene.index, "prompt")
    lead = str(rng.choice(LEADS))
    chunks = [Chunk(lead)]
    chunks += _listing(scene, _seen(rendering), rng, styled=True, coloured=coloured)
    chunks += [Chunk("on"), _stuff(scene, BELOW)]
    chunks += [Chunk(str(rng.choice(("under", "and", "with")))), _stuff(scene, ABOVE)]
    return _join(chunks, capital=False)


def class_names(scene: Scene, rendering: Rendering) -> Caption:
    """The bare names of what can be seen: "a photo of a ball and a mug on grass under sky".

    Every kind of thing is named once, however many there are: its phrase means all their groups.
    """
    groups: dict[str, tuple[int, ...]] = {}
    for index in _seen(rendering):
        name = scene.groups[index].category.name
        groups[name] = (*groups.get(name, ()), index)
    chunks = [Chunk("a photo of")]
    for place, (name, meant) in enumerate(groups.items()):
        if place:
            chunks.append(Chunk("and" if place == len(groups) - 1 else ","))
        chunks += [Chunk("a"), Chunk(name, True, meant)]
    chunks += [Chunk("on"), _stuff(scene, BELOW), Chunk("under"), _stuff(scene, ABOVE)]
    return _join(chunks, capital=False)


def narrative(scene: Scene, rendering: Rendering) -> Caption:
    """One to four sentences with ungrounded nouns, things, stuff, singulars and plurals."""
    rng = rng_for(scene.seed, scene.index, "narrative")
    seen = _seen(rendering)
    image = str(rng.choice(("picture", "image", "photo")))
    opening = ("In this", str(rng.choice(("we can see", "I can see", "there is"))))
    first = [Chunk(opening[0]), _noun(image), Chunk(opening[1])]
    first += _listing(scene, seen, rng, styled=False)
    below_first = bool(rng.random() < 0.6)  # noqa: PLR2004
    if below_first:
        first += [Chunk("on the"), _stuff(scene, BELOW)]
    rest = [[Chunk("In the"), _noun("background"), Chunk("there is"), _stuff(scene, ABOVE)]]
    if not below_first:
        rest.append([Chunk("At the"), _noun("bottom"), Chunk("we can see"), _stuff(scene, BELOW)])
    if seen and rng.random() < 0.4:  # noqa: PLR2004
        again = int(rng.choice(list(seen)))
        many = seen[again] > 1
        what = Chunk(_once_more(scene, seen, again), True, (again,), many)
        where = Chunk("are on the" if many else "is on the")
        rest.append([Chunk("The"), what, where, _stuff(scene, BELOW)])
    if rng.random() < 0.3:  # noqa: PLR2004
        rest.append([Chunk("This"), _noun(image), Chunk("is taken during the"), _noun("day")])
    keep = int(rng.integers(0, len(rest) + 1))
    sentences = [first, *rest[:keep]]
    chunks = [chunk for sentence in sentences for chunk in (*sentence, Chunk("."))]
    return _join(chunks, capital=True)


def noun_phrase(
    group: Group, index: int, count: int, *, styled: bool = True, coloured: bool = True
) -> list[Chunk]:
    """The article and the phrase of a group of which ``count`` show: "a", "striped red ball"."""
    name = group.category.plural if count > 1 else group.category.name
    style = f"{group.pattern} " if styled and group.pattern != "plain" else ""
    words = f"{style}{group.colour} {name}" if coloured else name
    words = f"empty {words}" if group.empty else words
    if group.crowd:
        many = Chunk(words, True, (index,), True)
        return [Chunk("a"), _noun("crowd"), Chunk("of"), many]
    if count > 1:
        return [Chunk(f"{NUMBERS[count]} {words}", True, (index,), True)]
    chunks = [Chunk("an" if words[0] in "aeiou" else "a"), Chunk(words, True, (index,))]
    if group.content:
        chunks += [Chunk("filled with"), _noun(group.content)]
    return chunks


def _seen(rendering: Rendering) -> dict[int, int]:
    """Group -> how many of its things can be seen (a crowd counts as many)."""
    counts: dict[int, int] = {}
    for segment in rendering.segments:
        if segment.group >= 0:
            counts[segment.group] = counts.get(segment.group, 0) + (CROWD if segment.crowd else 1)
    return dict(sorted(counts.items()))


def _once_more(scene: Scene, seen: dict[int, int], index: int) -> str:
    """What a group is called once it was introduced: its name, which must say which group it is.

    "bird", but "blue bird" where a red one can be seen too: no two groups of a scene share both
    category and colour.
    """
    group = scene.groups[index]
    name = group.category.plural if seen[index] > 1 else group.category.name
    alone = all(scene.groups[i].category != group.category for i in seen if i != index)
    return name if alone else f"{group.colour} {name}"


def _listing(
    scene: Scene,
    seen: dict[int, int],
    rng: np.random.Generator,
    *,
    styled: bool,
    coloured: bool = True,
) -> list[Chunk]:
    """Every group that can be seen: "a red ball, two blue mugs and a green car".

    What another one stands by is named there: "an empty mug on a book".
    """
    chunks: list[Chunk] = []
    beside = {index: scene.groups[index].beside for index in seen}
    there = {by[1] for by in beside.values() if by is not None}
    listed = [index for index in seen if index not in there]
    for place, index in enumerate(listed):
        if place:
            chunks.append(Chunk("and" if place == len(listed) - 1 else ","))
        spoken = styled or bool(rng.random() < 0.5)  # noqa: PLR2004
        by = beside[index]
        for relation, one in ("", index), *([by] if by is not None and by[1] in seen else []):
            chunks += [Chunk(relation)] if relation else []
            group = scene.groups[one]
            chunks += noun_phrase(group, one, seen[one], styled=spoken, coloured=coloured)
    return chunks


def _noun(text: str) -> Chunk:
    """A noun that nothing in the picture is."""
    return Chunk(text, noun=True)


def _stuff(scene: Scene, which: int) -> Chunk:
    return Chunk((scene.above if which == ABOVE else scene.below).name, True, (which,))


def _join(chunks: list[Chunk], *, capital: bool) -> Caption:
    text, phrases = "", []
    for chunk in chunks:
        starts = not text or text.endswith(".")
        written = chunk.text[0].upper() + chunk.text[1:] if capital and starts else chunk.text
        if text and chunk.text not in ",.":
            text += " "
        start = len(text)
        text += written
        if chunk.groups:
            phrases.append(Phrase(written, start, len(text), chunk.groups, chunk.plural))
    return Caption(text, tuple(chunks), tuple(phrases))
