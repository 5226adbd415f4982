"""Who is asked for in a picture, and who shares its segments out."""

from __future__ import annotations

from pathlib import Path

import numpy as np
import pytest
from tiny_personalized import scenes, world

from diffground.data.mug19 import Item, Mug19, Split, Triplet
from diffground.errors import InputError, ProblemReport
from diffground.papers.personalized.scenes import Scenes


def triplet(instance: str, context: str, *splits: Split, item: str = "", **more) -> Triplet:
    item = item or instance
    words = context.replace("mug", "<new1> mug")
    others = tuple(name for name in ("mug01", "mug02", "mug03") if name != instance)
    root = Path("/data")
    return Triplet(
        f"s/0 {instance} {item}", item, instance, context, words,
        root / "scenes/s/0.jpg", more.get("mask", root / "masks/s/0.png"), 1, others, splits,
    )  # fmt: skip


def by_hand(*triplets: Triplet) -> Scenes:
    names = ("mug01", "mug02", "mug03", "mug04")
    items = {name: Item(name, "<new1>", "mug", (Path(f"{name}.jpg"),)) for name in names}
    return Scenes.of(Mug19(Path("/data"), items, triplets, ProblemReport()), limit=None)


@pytest.fixture(autouse=True)
def no_files(monkeypatch: pytest.MonkeyPatch, request: pytest.FixtureRequest) -> None:
    if "by_hand" in request.node.name:
        monkeypatch.setattr(Mug19, "fingerprint", "data")


def test_by_hand_queries_of_objects_and_of_a_variant() -> None:
    found = by_hand(
        triplet("mug02", "a mug on a book", "all"),
        triplet("mug01", "a mug filled with tea", "all"),
        triplet("mug02", "a red mug", "variant", item="mug04"),
    )
    (view,) = found.views
    assert view.id == "s_0" and view.objects == ("mug02", "mug01", "mug03")
    words = [(query.item, query.description) for query in found.objects(view)]
    assert words == [
        ("mug02", "a <new1> mug on a book"),
        ("mug01", "a <new1> mug filled with tea"),
        ("mug03", "a <new1> mug"),  # it has no triplet of its own
    ]
    together = [(q.item, q.context) for q in found.together(view, view.triplets[2])]
    assert together == [
        ("mug04", "a red mug"),
        ("mug01", "a mug filled with tea"),
        ("mug03", "a mug"),
    ]
    assert len(found.asked(view)) == 4, "three objects and a variant"
    assert found.objects(view)[0].references == (Path("mug02.jpg"),)
    assert set(found.items) == {"mug01", "mug02", "mug03", "mug04"}


def test_by_hand_two_masks_of_a_picture_are_refused() -> None:
    with pytest.raises(InputError, match="another mask of the same picture"):
        by_hand(
            triplet("mug01", "a mug", "all"),
            triplet("mug02", "a mug", "all", mask=Path("/data/masks/x.png")),
        )


def test_a_limit_is_spread_evenly_and_leaves_items_out() -> None:
    whole, part = scenes(limit=None), scenes(limit=3)
    assert [view.id for view in whole.views] == [f"scene{n:02d}_000" for n in range(1, 7)]
    assert [view.id for view in part.views] == ["scene01_000", "scene03_000", "scene05_000"]
    asked = {query.item for view in part.views for query in part.asked(view)}
    assert set(part.items) == asked and len(part.items) < len(whole.items)


def test_instances_are_those_of_the_mask() -> None:
    found = scenes(limit=None)
    for view in found.views:
        instances, places = view.load_instances(), view.places()
        assert len(instances) == len(view.objects)
        for each in view.triplets:
            assert (instances[places[each.id]] == each.load_target()).all()
        assert instances.sum(axis=0).max() == 1 and np.all(instances.any(axis=(1, 2)))
    assert world().name == "mug19"
