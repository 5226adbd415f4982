"""Scenes and their words: what the methods under test rely on."""

from __future__ import annotations

import time
from collections import Counter
from collections.abc import Callable

import numpy as np
import pytest

from diffground.world.captions import Caption, narrative, prompt
from diffground.world.render import Rendering, render
from diffground.world.scene import Group, Scene, Thing, mixed_scene, sample_scene
from diffground.world.vocabulary import BELOW, BY_NAME, CATEGORIES, PERSONAL_MUGS, THINGS

Captioned = list[tuple[Scene, Rendering]]


@pytest.fixture(scope="module")
def scenes() -> Captioned:
    return [(scene := sample_scene(3, i), render(scene, 64)) for i in range(120)]


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
        scene = sample_scene(3, index)
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


def test_same_index_same_scene() -> None:
    first, again = (render(sample_scene(5, 17), 64) for _ in range(2))
    assert (first.image == again.image).all() and (first.ids == again.ids).all()
    assert (first.image != render(sample_scene(5, 18), 64).image).any()
    assert (first.image != render(sample_scene(6, 17), 64).image).any()


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
        for scene in (sample_scene(3, index) for index in range(1500))
        if any(group.category.name == "boat" for group in scene.groups)
    )
    assert below["water"] > 0.9 * below.total() > 100


def test_mixing_changes_the_stuff_and_nothing_else() -> None:
    plain = [sample_scene(3, i) for i in range(400)]
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
    groups = [group for index in range(800) for group in sample_scene(3, index).groups]
    assert {group.category for group in groups} == set(THINGS)
    assert {1, 2, 3} <= {group.count for group in groups} and any(g.crowd for g in groups)
    assert {g.content for g in groups} == {"", "cola", "milk", "juice", "tea"}


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
        scene = sample_scene(3, index)
        narrative(scene, render(scene, 128))
    assert 200 / (time.process_time() - start) >= 50


def _silhouette(name: str) -> np.ndarray:
    thing = Thing(BY_NAME[name], "red", "plain", 0.5, 0.95, 0.9, 0)
    group = Group(BY_NAME[name], "red", "plain", 1)
    light = (1.0, 0.0, 0.0)
    scene = Scene(1, 0, BY_NAME["sky"], BY_NAME["sand"], 0.5, (group,), (thing,), light)
    return render(scene, 64).mask(0)
