"""Writes a Mug19: personal mugs, scenes of them, and who is meant by which words.

The dataset of paper 002, section 4, in a layout of our own (catalog_docs/mug19.md)::

    items.json  scenes.json  triplets.json
    items/mug01/00.jpg ...            pictures of one mug, 5 to 10 of each
    scenes/scene01/000.jpg ...        views of one scene
    masks/scene01/000.png ...         grey: k is the k-th mug from the left, 0 is the rest
"""

from __future__ import annotations

import json
from pathlib import Path
from typing import Any, Final

import numpy as np
from numpy.typing import NDArray

from diffground.io.images import write_jpeg, write_png
from diffground.progress import progress
from diffground.seeds import derive_seed
from diffground.store.manifest import Manifest, make_folder
from diffground.world.config import WorldConfig
from diffground.world.mug_scenes import COLOUR_NAMES, Arrangement, arrange, stage, stage_alone
from diffground.world.render import render
from diffground.world.scene import rng_for
from diffground.world.vocabulary import PERSONAL_MUGS

# Raised when the same configuration gives other files, here or in the scenes that are drawn.
CODE_VERSION: Final = 1

TOKEN, CLASS = "<new1>", "mug"
SPLITS = ("all", "semantic_distractor", "visual_distractor", "variant")
ATTEMPTS = 20  # views drawn until one shows every thing

Row = dict[str, Any]


def make_mug19(folder: Path, config: WorldConfig) -> Manifest:
    """Writes ``config.mug19`` under ``folder``, unless a valid one is there.

    Reference pictures are drawn from ``seed``, scenes from ``eval_seed``. The files of an item, of
    a scene and of a view depend on its number, not on how many there are.
    """
    return make_folder(
        folder, config.recipe("mug19", CODE_VERSION), lambda partial: _write(partial, config)
    )


def description(context: str) -> str:
    """The query of a context: "a mug filled with cola" -> "a <new1> mug filled with cola"."""
    assert context.count(CLASS) == 1, context
    return context.replace(CLASS, f"{TOKEN} {CLASS}")


def scene_triplets(
    name: str, arrangement: Arrangement, view: int, seed: int, scene: int
) -> list[Row]:
    """The triplets of one picture: one per mug, and one whose item is a variant of its instance."""
    rows = []
    for index, staged in enumerate(arrangement.mugs):
        semantic = arrangement.semantic_distractors(index)
        visual = arrangement.visual_distractors(index)
        splits = ["all"]
        splits += ["semantic_distractor"] if semantic else []
        splits += ["visual_distractor"] if visual else []
        rows.append(_triplet(name, arrangement, view, index, staged.mug.id, staged.context, splits))
    able = [i for i in range(len(arrangement.mugs)) if arrangement.variants(i)]
    if able:
        rng = rng_for(seed, scene, f"variant {view}")
        index = able[int(rng.integers(len(able)))]
        variants = arrangement.variants(index)
        item = variants[int(rng.integers(len(variants)))].id
        colour = COLOUR_NAMES[arrangement.mugs[index].mug.body]
        article = "an" if colour[0] in "aeiou" else "a"
        context = f"{article} {colour} {CLASS}"
        rows.append(_triplet(name, arrangement, view, index, item, context, ["variant"]))
    return rows


def _triplet(
    name: str, arrangement: Arrangement, view: int, index: int, item: str, context: str,
    splits: list[str],
) -> Row:  # fmt: skip
    ids = [staged.mug.id for staged in arrangement.mugs]
    instance = ids[index]
    return {
        "id": f"{name}_{view:03d}_{instance}" + ("" if item == instance else f"_by_{item}"),
        "scene": name,
        "image": _image(name, view),
        "mask": _mask(name, view),
        "segment": index + 1,
        "item": item,
        "instance": instance,
        "class": CLASS,
        "context": context,
        "description": description(context),
        "others": [other for other in ids if other != instance],
        "distractors": {
            "semantic": [ids[i] for i in arrangement.semantic_distractors(index)],
            "visual": [ids[i] for i in arrangement.visual_distractors(index)],
        },
        "splits": splits,
    }


def _write(root: Path, config: WorldConfig) -> None:
    _json(root / "items.json", _write_items(root, config))
    scenes: list[Row] = []
    triplets: list[Row] = []
    seed = derive_seed(config.eval_seed, "mug19")
    for number in progress(range(config.mug19.scenes), "Mug19 scenes"):
        name = f"scene{number + 1:02d}"
        arrangement = arrange(seed, number)
        for folder in ("scenes", "masks"):
            (root / folder / name).mkdir(parents=True)
        for view in range(config.mug19.views):
            image, mask = draw_view(arrangement, seed, number, view, config)
            write_jpeg(root / _image(name, view), image)
            write_png(root / _mask(name, view), mask)
            triplets += scene_triplets(name, arrangement, view, seed, number)
        scenes.append(_scene(name, arrangement, config.mug19.views))
    _json(root / "scenes.json", scenes)
    _json(root / "triplets.json", triplets)


def draw_view(
    arrangement: Arrangement, seed: int, scene: int, view: int, config: WorldConfig
) -> tuple[NDArray[np.uint8], NDArray[np.uint8]]:
    """The picture, RGB ``(H, W, 3)``, and its mask ``(H, W)``: k for the k-th mug, 0 elsewhere."""
    size, width = config.size, config.mug19.scene_width
    for attempt in range(ATTEMPTS):
        draw = f"view {view} {attempt}"
        staged = stage(arrangement, seed, scene, draw, width / size)
        rendering = render(staged, size, width)
        if len(rendering.segments) == 2 + len(staged.things):  # nothing hides anything
            break
    else:
        raise AssertionError(f"scene {scene}, view {view}: no view shows everything")
    table = np.zeros(256, np.uint8)
    for segment in rendering.segments:
        if 0 <= segment.group < len(arrangement.mugs):
            table[segment.number] = segment.group + 1
    return rendering.image, table[rendering.ids]


def _write_items(root: Path, config: WorldConfig) -> list[Row]:
    rows: list[Row] = []
    seed = derive_seed(config.seed, "mug19")
    low, high = config.mug19.min_references, config.mug19.max_references
    for number, mug in enumerate(progress(PERSONAL_MUGS, "Mug19 items")):
        (root / "items" / mug.id).mkdir(parents=True)
        count = int(rng_for(seed, number, "count").integers(low, high + 1))
        pictures = [f"items/{mug.id}/{reference:02d}.jpg" for reference in range(count)]
        for reference, path in enumerate(pictures):
            write_jpeg(root / path, render(stage_alone(mug, seed, reference), config.size).image)
        rows.append(
            {
                "id": mug.id,
                "token": TOKEN,
                "class": CLASS,
                "body": COLOUR_NAMES[mug.body],
                "ink": COLOUR_NAMES[mug.ink],
                "series": mug.decoration,
                "images": pictures,
            }
        )
    return rows


def _scene(name: str, arrangement: Arrangement, views: int) -> Row:
    return {
        "id": name,
        "kind": arrangement.kind,
        "mugs": [
            {
                "segment": segment,
                "item": staged.mug.id,
                "content": staged.content or "empty",
                "surrounding": staged.surrounding,
                "context": staged.context,
            }
            for segment, staged in enumerate(arrangement.mugs, start=1)
        ],
        "images": [_image(name, view) for view in range(views)],
        "masks": [_mask(name, view) for view in range(views)],
    }


def _image(name: str, view: int) -> str:
    return f"scenes/{name}/{view:03d}.jpg"


def _mask(name: str, view: int) -> str:
    return f"masks/{name}/{view:03d}.png"


def _json(path: Path, content: object) -> None:
    path.write_text(json.dumps(content, indent=1), encoding="utf-8")
