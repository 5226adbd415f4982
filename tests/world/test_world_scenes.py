"""Scenes and their words: what the methods under test rely on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest
from tiny_world import SIZES

from diffground.world.captions import Caption, class_names, narrative, prompt
from diffground.world.render import Rendering, render
from diffground.world.scene import Group, Scene, Thing, mixed_scene, sample_scene
from diffground.world.vocabulary import (
    BELOW,
    BY_NAME,
    CATEGORIES,
    CLASS_SPLITS,
    PERSONAL_MUGS,
    SETTINGS,
    THINGS,
    seen_and_unseen,
)

Captioned = list[tuple[Scene, Rendering]]


@pytest.fixture(scope="module")
def scenes() -> Captioned:
    return [(scene := sample_scene(3, i, SIZES), render(scene, 64)) for i in range(120)]


@pytest.mark.parametrize("write", [prompt, narrative])
def test_captions(scenes: Captioned, write: Callable[[Scene, Rendering], Caption]) -> None:
    """Chunks cover the caption, spans are exact, and what is spoken of can be seen."""
    plurals = 0
    for scene, rendering in scenes:
        caption = write(scene, rendering)
        words = " ".join(chunk.text for chunk in caption.chunks).lower()
        assert words.replace(" ,", ",").replace(" .", ".") == caption.text.lower()
        grounded = [chunk for chunk in caption.chunks if chunk.groups]
        assert len(grounded) == len(caption.phrases) > 0
        end = 0
        for phrase, chunk in zip(caption.phrases, grounded, strict=True):
            assert chunk.noun and caption.text[phrase.start : phrase.end] == phrase.text
            assert phrase.text.lower() == chunk.text.lower()
            assert end <= phrase.start < phrase.end
            end = phrase.end
            head = phrase.text.split()[-1]
            names = {(c.plural if phrase.plural else c.name) for c in CATEGORIES}
            assert head.lower() in names
            for group in phrase.groups:
                assert rendering.mask(group).any()
            plurals += phrase.plural
    assert plurals > 10


def test_a_group_spoken_of_again_is_named_unmistakably() -> None:
    """It is "The bird" where all birds are of one group, and "The blue bird" where they are not."""
    with_colour = 0
    for index in range(600):
        scene = sample_scene(3, index, SIZES)
        rendering = render(scene, 64)
        caption = narrative(scene, rendering)
        seen = {segment.group for segment in rendering.segments if segment.group >= 0}
        for before, phrase in zip(caption.chunks, caption.chunks[1:], strict=False):
            if before.text != "The":
                continue
            meant = {  # groups that the words can mean
                group
                for group in seen
                if set(phrase.text.split())
                <= {
                    scene.groups[group].category.name,
                    scene.groups[group].category.plural,
                    scene.groups[group].colour,
                }
            }
            assert meant == set(phrase.groups), caption.text
            with_colour += len(phrase.text.split()) > 1
    assert with_colour > 3


def test_class_names_are_said_once_and_mean_all_of_their_kind(scenes: Captioned) -> None:
    several = 0
    for scene, rendering in scenes:
        caption = class_names(scene, rendering)
        seen = rendering.segments
        assert {p.text for p in caption.phrases} == {s.category.name for s in seen}
        assert len({p.text for p in caption.phrases}) == len(caption.phrases)
        for phrase in caption.phrases:
            assert caption.text[phrase.start : phrase.end] == phrase.text
            meant = {s.group for s in seen if s.category.name == phrase.text}
            assert set(phrase.groups) == meant
            several += len(meant) > 1
    assert several > 3


def test_same_index_same_scene() -> None:
    first, again = (render(sample_scene(5, 17, SIZES), 64) for _ in range(2))
    assert (first.image == again.image).all() and (first.ids == again.ids).all()
    assert (first.image != render(sample_scene(5, 18, SIZES), 64).image).any()
    assert (first.image != render(sample_scene(6, 17, SIZES), 64).image).any()


def test_every_pixel_has_a_segment(scenes: Captioned) -> None:
    for _, rendering in scenes:
        assert set(np.unique(rendering.ids).tolist()) == {s.number for s in rendering.segments}
        assert 0 not in rendering.ids


def test_a_wide_canvas() -> None:
    """Sizes are fractions of the height: a thing is as large as on the square one."""
    thing = Thing(BY_NAME["ball"], "red", "plain", 0.5, 0.9, 0.4, 0)
    group = Group(BY_NAME["ball"], "red", "plain", 1)
    scene = Scene(1, 0, BY_NAME["sky"], BY_NAME["sand"], 0.5, (group,), (thing,), (1.0, 0.0, 0.0))
    square, wide = render(scene, 64), render(scene, 64, 128)
    assert wide.image.shape == (64, 128, 3) and wide.ids.shape == (64, 128)
    assert wide.mask(0).sum() == square.mask(0).sum()
    assert abs(np.nonzero(wide.mask(0))[1].mean() - 63.5) < 1


def test_boats_are_nearly_always_on_water() -> None:
    """What lets a method confuse a thing with its usual surroundings."""
    below = Counter(
        scene.below.name
        for scene in (sample_scene(3, index, SIZES) for index in range(1500))
        if any(group.category.name == "boat" for group in scene.groups)
    )
    assert below["water"] > 0.9 * below.total() > 100


def test_mixing_changes_the_stuff_and_nothing_else() -> None:
    plain = [sample_scene(3, i, SIZES) for i in range(400)]
    mixed = [mixed_scene(scene, 0.4) for scene in plain]
    assert [mixed_scene(scene, 0.0) for scene in plain] == plain
    assert all(
        a.things == b.things and a.horizon == b.horizon for a, b in zip(plain, mixed, strict=True)
    )
    changed = sum(a.above != b.above for a, b in zip(plain, mixed, strict=True))
    assert 0.2 < changed / len(plain) < 0.4  # a quarter of the new draws are the old ones
    walls = [scene.below.name for scene in mixed if scene.above.name == "wall"]
    assert len(set(walls)) == len(BELOW)  # a wall no longer says which ground


def test_every_category_and_kind_of_group_comes_up() -> None:
    groups = [group for index in range(800) for group in sample_scene(3, index, SIZES).groups]
    assert {group.category for group in groups} == set(THINGS)
    assert {1, 2, 3} <= {group.count for group in groups} and any(g.crowd for g in groups)
    assert {g.content for g in groups} == {"", "cola", "milk", "juice", "tea"}


def test_things_are_as_large_as_the_world_says() -> None:
    """The fewer, the larger; the sizes are fractions of the height."""
    alone, crowded = [], []
    for index in range(300):
        things = sample_scene(3, index, SIZES, simple=True).things
        (alone if len(things) == 1 else crowded).extend(thing.size for thing in things)
        assert all(0 < thing.size < 0.9 for thing in things)
    assert abs(np.median(alone) - SIZES[0]) < 0.1
    assert abs(np.median(crowded) - SIZES[1]) < 0.1
    small = [sample_scene(3, index, (0.2,)).things for index in range(100)]
    assert max(thing.size for things in small for thing in things) < 0.35


def test_simple_scenes_have_one_or_two_single_things() -> None:
    groups = [sample_scene(3, index, SIZES, simple=True).groups for index in range(300)]
    assert {len(some) for some in groups} == {1, 2}
    assert all(group.count == 1 and not group.crowd for some in groups for group in some)


def test_things_are_parted_into_seen_and_unseen_ones() -> None:
    unseen = []
    for split in range(1, CLASS_SPLITS + 1):
        seen, left_out = seen_and_unseen(split)
        assert sorted((*seen, *left_out), key=THINGS.index) == list(THINGS)
        assert 0.2 < len(left_out) / len(THINGS) < 0.3
        for setting in SETTINGS.values():
            assert {thing.name for thing in seen} & set(setting.things)
        unseen += left_out
    assert sorted(unseen, key=THINGS.index) == list(THINGS), "each is unseen in one split"
    assert [thing.name for thing in seen_and_unseen(4)[1]] == ["cart", "tree", "vase"]
    for split in (0, CLASS_SPLITS + 1):
        with pytest.raises(ValueError, match=f"class split {split} is not in 1"):
            seen_and_unseen(split)


def test_names_and_shapes_that_are_alike() -> None:
    names = [category.name for category in THINGS]
    assert any(a != b and b.startswith(a) for a in names for b in names), "car, cart"
    bottle, vase = (_silhouette(name) for name in ("bottle", "vase"))
    assert (bottle & vase).sum() > 0.6 * (bottle | vase).sum()
    assert max(Counter(mug.body for mug in PERSONAL_MUGS).values()) > 1


@pytest.mark.benchmark
def test_speed() -> None:
    """Seconds of one core for captioned scenes of 128 pixels."""
    start = time.process_time()
    for index in range(200):
        scene = sample_scene(3, index, SIZES)
        narrative(scene, render(scene, 128))
    assert 200 / (time.process_time() - start) >= 50


def _silhouette(name: str) -> np.ndarray:
    thing = Thing(BY_NAME[name], "red", "plain", 0.5, 0.95, 0.9, 0)
    group = Group(BY_NAME[name], "red", "plain", 1)
    light = (1.0, 0.0, 0.0)
    scene = Scene(1, 0, BY_NAME["sky"], BY_NAME["sand"], 0.5, (group,), (thing,), light)
    return render(scene, 64).mask(0)
