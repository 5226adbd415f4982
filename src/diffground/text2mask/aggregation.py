"""The class maps of a whole dataset, as files: what the frozen model is asked once.

A folder of maps::

    <folder>/<id>.safetensors      maps and cross (K, h, w) float16 on the padded grid; in the
                                   header the classes, the sizes, and the recipe's hash
             problems-000-of-001.json  items of this part without maps, and why
             manifest.json         written last: its presence means whole

Every later step (thresholds, CRF, other backgrounds) reads these files, so the UNet runs once per
image and setting. A file appears whole; one that is there and fits the recipe is not made again.
At 16 pixels per cell a class of a 500 x 375 image takes 7 kB.
"""

from __future__ import annotations

import json
from collections.abc import Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from tqdm.auto import tqdm

from diffground.attention.aggregate import ClassMaps
from diffground.attention.preprocess import Geometry
from diffground.errors import InputError, Problem, ProblemReport
from diffground.io.files import write_whole
from diffground.manifest import config_hash, is_valid, remove_manifest, write_manifest
from diffground.masks.store import ShardConfig
from diffground.text2mask.api import TextToMask
from diffground.text2mask.samples import SegmentationSample, load_image

_ABOUT = "diffground"
_PROBLEMS = "problems-{:03d}-of-{:03d}.json"


def write_maps(
    segmenter: TextToMask,
    samples: Sequence[SegmentationSample],
    folder: Path,
    recipe: dict[str, Any],
    *,
    seed: int,
    shard: ShardConfig | None = None,
) -> dict[str, Any]:
    """Makes the maps of ``samples`` that are not there yet.

    Args:
        samples: all of them; their classes are what is asked for.
        recipe: all that the maps depend on but the samples: a file of another recipe is made anew.
        shard: the part of the samples that this run makes.

    Returns:
        JSON-ready ``{"folder", "complete", "items", "made", "kept", "skipped"}`` of this shard.
    """
    part = ShardConfig() if shard is None else shard
    key = config_hash(recipe)
    content = {"recipe": recipe, "ids": config_hash({"ids": [s.id for s in samples]})}
    mine = samples[part.index :: part.count]
    folder.mkdir(parents=True, exist_ok=True)
    notes = folder / _PROBLEMS.format(part.index, part.count)
    with FileLock(folder / f".{notes.stem}.lock"):  # a second run waits, and finds them made
        if is_valid(folder, content):
            names = {sample.id for sample in mine}
            known = [row for row in _noted(folder) if row.item in names]
            return _summary(folder, len(mine), 0, known, complete=True)
        pending = [s for s in mine if not _is_done(maps_path(folder, s.id), key)]
        remove_manifest(folder)
        notes.unlink(missing_ok=True)
        report = _make(segmenter, pending, folder, key, seed)
        rows = json.dumps([asdict(row) for row in report.problems], indent=2) + "\n"
        write_whole(notes, lambda path: path.write_text(rows, encoding="utf-8"))
        complete = _finish(folder, samples, key, part.count)
        if complete:
            write_manifest(folder, content)
    made = len(pending) - len(report.problems)
    return _summary(folder, len(mine), made, report.problems, complete=complete)


def _make(
    segmenter: TextToMask,
    pending: Sequence[SegmentationSample],
    folder: Path,
    key: str,
    seed: int,
) -> ProblemReport:
    """Makes maps one image after the other, and goes on after a broken one."""
    report = ProblemReport(total=len(pending))
    for sample in tqdm(pending, desc=f"maps {folder.name}", disable=not pending):
        try:
            maps = segmenter.maps(load_image(sample), sample.classes, item=sample.id, seed=seed)
        except InputError as error:
            report.add(sample.id, error)
            continue
        _write(maps_path(folder, sample.id), maps, key)
    return report


def maps_path(folder: Path, item: str) -> Path:
    """The file of an item."""
    return folder / f"{item}.safetensors"


def read_maps(folder: Path, item: str) -> ClassMaps:
    """The maps of an item, float32; InputError for a file that is missing or broken."""
    path = maps_path(folder, item)
    try:
        with safe_open(path, framework="pt") as file:
            header = _header(file.metadata())
            maps, cross = (file.get_tensor(name).float() for name in ("maps", "cross"))
    except (OSError, SafetensorError) as error:
        raise InputError(path, "maps", f"there are none that can be read: {error}") from error
    if not header:
        raise InputError(path, "maps", "the file was not written here")
    sizes = header["geometry"]
    geometry = Geometry(**{name: (size[0], size[1]) for name, size in sizes.items()})
    return ClassMaps(tuple(header["keys"]), maps, cross, geometry)


def _summary(
    folder: Path, items: int, made: int, problems: list[Problem], *, complete: bool
) -> dict[str, Any]:
    return {
        "folder": folder.name,
        "complete": complete,
        "items": items,
        "made": made,
        "kept": items - made - len(problems),
        "skipped": ProblemReport(items, problems).to_dict(),
    }


def _finish(folder: Path, samples: Sequence[SegmentationSample], key: str, count: int) -> bool:
    """Whether every item of every part has its maps, or is known to have none; then tidies up."""
    current = {folder / _PROBLEMS.format(index, count) for index in range(count)}
    if not all(path.exists() for path in current):
        return False
    for stale in set(folder.glob("problems-*-of-*.json")) - current:
        stale.unlink(missing_ok=True)
    known = {row.item for row in _noted(folder)}
    if not all(s.id in known or _is_done(maps_path(folder, s.id), key) for s in samples):
        return False
    for stale in folder.rglob(".*.part"):  # left behind by killed runs
        stale.unlink(missing_ok=True)
    return True


def _noted(folder: Path) -> list[Problem]:
    """What all parts noted as broken."""
    files = sorted(folder.glob("problems-*-of-*.json"))
    return [Problem(**row) for file in files for row in json.loads(file.read_text("utf-8"))]


def _write(path: Path, maps: ClassMaps, key: str) -> None:
    header = {"recipe": key, "keys": maps.keys, "geometry": asdict(maps.geometry)}
    # One entry: several are written in an order that changes from run to run.
    about = {_ABOUT: json.dumps(header, sort_keys=True)}
    tensors = {
        name: tensor.to(torch.float16).contiguous()
        for name, tensor in (("maps", maps.maps), ("cross", maps.cross))
    }
    write_whole(path, lambda part: save_file(tensors, part, metadata=about))


def _is_done(path: Path, key: str) -> bool:
    """Whether a file is there, can be opened, and was made by this recipe."""
    if not path.exists():
        return False
    try:
        with safe_open(path, framework="pt") as file:
            return bool(_header(file.metadata()).get("recipe") == key)
    except (OSError, SafetensorError):
        return False


def _header(metadata: dict[str, str] | None) -> dict[str, Any]:
    """What :func:`_write` noted; empty in a file that is not ours."""
    found: dict[str, Any] = json.loads((metadata or {}).get(_ABOUT, "{}"))
    return found
