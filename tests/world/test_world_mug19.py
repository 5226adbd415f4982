"""Mug19: the layout of catalog_docs/mug19.md, and that each split is what it says it is."""

from __future__ import annotations

import json
from collections import Counter
from itertools import combinations
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from PIL import Image

from diffground.io.images import read_image
from diffground.world.captions import prompt
from diffground.world.config import WorldConfig
from diffground.world.mug19 import make_mug19
from diffground.world.mug_scenes import arrange, stage_plain
from diffground.world.render import render
from diffground.world.scene import Group, Scene, Thing
from diffground.world.vocabulary import BY_NAME, PERSONAL_MUGS


class Mug19:
    """The three JSON files, indexed."""

    def __init__(self, root: Path) -> None:
        self.root = root
        items, scenes, self.triplets = (
            json.loads((root / f"{name}.json").read_text())
            for name in ("items", "scenes", "triplets")
        )
        self.items = {item["id"]: item for item in items}
        self.scenes = {scene["id"]: scene for scene in scenes}

    def mug(self, triplet: dict[str, Any], item: str) -> dict[str, Any]:
        (mug,) = (m for m in self.scenes[triplet["scene"]]["mugs"] if m["item"] == item)
        return mug


@pytest.fixture(scope="module")
def mugs(world: Path) -> Mug19:
    return Mug19(world / "mug19")


def fits(context: str, mug: dict[str, Any]) -> bool:
    """Whether a context is true of a mug, by the words of the documentation."""
    filled = "an empty mug" if mug["content"] == "empty" else f"a mug filled with {mug['content']}"
    return context in (filled, f"a mug {mug['surrounding']}")


def test_items(mugs: Mug19) -> None:
    assert list(mugs.items) == [f"mug{number:02d}" for number in range(1, 20)]
    for item in mugs.items.values():
        assert 5 <= len(item["images"]) <= 6 and item["token"] == "<new1>"
        for path in item["images"]:
            assert read_image(mugs.root / path).shape == (64, 64, 3)
    counts = {len(item["images"]) for item in mugs.items.values()}
    assert counts == {5, 6}


def test_scenes_and_masks(mugs: Mug19) -> None:
    for scene in mugs.scenes.values():
        ids = [mug["item"] for mug in scene["mugs"]]
        assert 3 <= len(ids) == len(set(ids)) <= 5
        for picture, mask in zip(scene["images"], scene["masks"], strict=True):
            assert read_image(mugs.root / picture).shape == (64, 128, 3)
            with Image.open(mugs.root / mask) as image:
                assert image.mode == "L"
                values = np.asarray(image)
            assert np.unique(values).tolist() == list(range(len(ids) + 1))
            centres = [np.nonzero(values == k)[1].mean() for k in range(1, len(ids) + 1)]
            assert centres == sorted(centres), "from left to right, in every view"
            assert min((values == k).sum() for k in range(1, len(ids) + 1)) > 0.01 * values.size


def test_views_differ(mugs: Mug19) -> None:
    for scene in mugs.scenes.values():
        first, second = (read_image(mugs.root / path).astype(int) for path in scene["images"])
        assert np.abs(first - second).mean() > 5


def test_splits_hold_for_every_triplet(mugs: Mug19) -> None:
    for triplet in mugs.triplets:
        scene = mugs.scenes[triplet["scene"]]
        wanted = mugs.mug(triplet, triplet["instance"])
        others = [m for m in scene["mugs"] if m["item"] != triplet["instance"]]
        body = mugs.items[triplet["instance"]]["body"]
        alike = [m["item"] for m in others if mugs.items[m["item"]]["body"] == body]
        assert triplet["segment"] == wanted["segment"]
        assert triplet["others"] == [m["item"] for m in others]
        assert triplet["image"] in scene["images"] and triplet["mask"] in scene["masks"]
        assert triplet["description"] == triplet["context"].replace("mug", "<new1> mug")
        assert triplet["distractors"]["visual"] == alike
        if triplet["splits"] == ["variant"]:
            item = mugs.items[triplet["item"]]
            assert triplet["item"] not in [m["item"] for m in scene["mugs"]]
            assert item["series"] == mugs.items[triplet["instance"]]["series"]
            assert item["body"] != body and triplet["context"].split()[1:] == [body, "mug"]
            continue
        rivals = [m["item"] for m in others if fits(triplet["context"], m)]
        assert triplet["item"] == triplet["instance"] and fits(triplet["context"], wanted)
        assert triplet["distractors"]["semantic"] == rivals
        assert "all" in triplet["splits"]
        assert ("semantic_distractor" in triplet["splits"]) == bool(rivals)
        assert ("visual_distractor" in triplet["splits"]) == bool(alike)
        assert not set(rivals) & set(alike), "words and looks together tell all apart"


def test_triplets_cover_every_mug_of_every_view(mugs: Mug19) -> None:
    ids = [triplet["id"] for triplet in mugs.triplets]
    assert len(set(ids)) == len(ids)
    splits = Counter(split for triplet in mugs.triplets for split in triplet["splits"])
    assert splits["all"] == sum(len(s["mugs"]) * len(s["images"]) for s in mugs.scenes.values())
    assert splits["variant"] == sum(len(scene["images"]) for scene in mugs.scenes.values())
    assert splits["semantic_distractor"] and splits["visual_distractor"]


def test_arrangements_are_of_their_kind() -> None:
    """On many scenes: what is said and seen in each kind, and milk never beside an empty mug."""
    pairs = {"plain": (0, 0), "semantic": (2, 0), "visual": (0, 2)}
    kinds: Counter[str] = Counter()
    able = 0
    for number in range(400):
        scene = arrange(11, number)
        indices = range(len(scene.mugs))
        semantic = sum(bool(scene.semantic_distractors(i)) for i in indices)
        visual = sum(bool(scene.visual_distractors(i)) for i in indices)
        assert (semantic, visual) == pairs[scene.kind]
        assert not {"", "milk"} <= {staged.content for staged in scene.mugs}
        kinds[scene.kind] += 1
        able += any(scene.variants(i) for i in indices)
    assert able > 380 and kinds == {"plain": 200, "semantic": 140, "visual": 60}


def test_plain_mugs_are_said_as_they_are() -> None:
    """What a caption says of mugs can be seen, in any order, and none of them is a personal one."""
    first_left, relations, empties = [], 0, 0
    for index in range(150):
        scene = stage_plain(3, index)
        assert all(thing.personal is None for thing in scene.things)
        assert all(0 <= thing.x - thing.size / 2 and thing.y <= 1 for thing in scene.things)
        where = {thing.group: thing for thing in scene.things}
        rendering = render(scene, 128)
        text = prompt(scene, rendering).text
        mugs = [g for g in where if scene.groups[g].category.name == "mug"]
        assert 1 <= len(mugs) <= 3 and text.count("mug") == len(mugs)
        for number in mugs:
            group, thing = scene.groups[number], where[number]
            said = f"{'empty ' if group.empty else ''}{group.colour} mug"
            assert not (group.empty and thing.content) and not (group.empty and group.content)
            empties += group.empty
            if group.content:
                said += f" filled with {group.content}"
                assert group.content == thing.content
            if group.beside is not None:
                relation, other = group.beside
                by = scene.groups[other]
                said += f" {relation} {'an' if by.colour[0] in 'aeiou' else 'a'} "
                said += f"{by.colour} {by.category.name}"
                assert (relation, by.category.name) in {("on", "book"), ("next to", "bottle")}
                near = abs(where[other].x - thing.x)
                assert near < (0.05 if relation == "on" else thing.size), "it is where it is said"
                relations += 1
            assert said in text
        if len(mugs) > 1:
            named = sorted(mugs, key=lambda g: text.index(f"{scene.groups[g].colour} mug"))
            first_left.append(where[named[0]].x == min(where[g].x for g in mugs))
    assert relations > 30 and empties > 10
    assert 0.3 < np.mean(first_left) < 0.65, "the first one named may stand anywhere"


def test_nineteen_distinct_mugs() -> None:
    assert len({(m.body, m.decoration) for m in PERSONAL_MUGS}) == len(PERSONAL_MUGS) == 19
    pictures = []
    for mug in PERSONAL_MUGS:
        thing = Thing(BY_NAME["mug"], "red", "plain", 0.5, 0.95, 0.8, 0, personal=mug)
        group = Group(BY_NAME["mug"], "red", "plain", 1)
        light = (1.0, 0.0, 0.0)
        scene = Scene(1, 0, BY_NAME["wall"], BY_NAME["floor"], 0.4, (group,), (thing,), light)
        rendering = render(scene, 64)
        pictures.append(rendering.image.astype(int)[rendering.mask(0)])
    assert min(np.abs(a - b).mean() for a, b in combinations(pictures, 2)) > 10


def test_files_do_not_depend_on_the_counts(
    tmp_path: Path, world: Path, config: WorldConfig
) -> None:
    counts = config.mug19.model_dump() | {"scenes": 3, "views": 1}
    make_mug19(
        tmp_path / "mug19", WorldConfig.model_validate(config.model_dump() | {"mug19": counts})
    )
    files = [p for p in tmp_path.rglob("*") if p.suffix in (".jpg", ".png")]
    assert len(files) > 19 * 5 + 6
    for path in files:
        assert path.read_bytes() == (world / path.relative_to(tmp_path)).read_bytes()
    small, large = Mug19(tmp_path / "mug19"), Mug19(world / "mug19")
    known = {triplet["id"]: triplet for triplet in large.triplets}
    assert all(known[triplet["id"]] == triplet for triplet in small.triplets)
