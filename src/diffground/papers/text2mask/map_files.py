"""The class maps of a whole dataset, as files: what the frozen model is asked once.

A folder of maps::

    <folder>/<id>.safetensors      maps and cross (K, h, w) float16 on the padded grid, and peaks
                                   (D, h, w), see `ClassMaps`; in the header the classes, the sizes,
                                   the hash of what they are of, the image's size, date and hash,
                                   the commit that made them, and the hash of all this
             recipe.json           what they depend on
             problems-000-of-001.json  items of this part without maps, and why
             manifest.json         written last: its presence means whole

Every later step (thresholds, CRF, other backgrounds) reads these files, so the UNet runs once per
image and setting. A file appears whole; one that is there, undamaged, and fits the recipe, the
image and its classes is not made again. Images are told apart by size and date, and read to the end
where the date alone is another one; what could not be read is tried again by every run.
At 16 pixels per cell a class of a 500 x 375 image takes 7 kB.
"""

from __future__ import annotations

import hashlib
import json
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict
from pathlib import Path
from typing import Any

import torch
from filelock import FileLock
from safetensors import SafetensorError, safe_open
from safetensors.torch import save_file
from torch import Tensor

from diffground.attention.aggregate import ClassMaps
from diffground.attention.preprocess import Geometry
from diffground.data.labelled_images import SegmentationSample, load_image
from diffground.errors import InputError, Problem, ProblemReport
from diffground.io.files import read_json, write_json, write_whole
from diffground.io.notes import FileNote, is_unchanged, note_of
from diffground.papers.text2mask.text_to_mask import TextToMask
from diffground.progress import progress
from diffground.provenance import claim, commit, join_commits
from diffground.store.config import ShardConfig
from diffground.store.manifest import config_hash, is_valid, remove_manifest, write_manifest

_ABOUT = "diffground"
_TENSORS = ("maps", "cross", "peaks")
_PROBLEMS = "problems-{:03d}-of-{:03d}.json"


def write_maps(
    open_segmenter: Callable[[], TextToMask],
    samples: Sequence[SegmentationSample],
    folder: Path,
    recipe: dict[str, Any],
    *,
    seed: int,
    shard: ShardConfig | None = None,
) -> dict[str, Any]:
    """Makes the maps of ``samples`` that are not there yet.

    Args:
        open_segmenter: called once, if there is anything to make.
        samples: all of them; their classes are what is asked for.
        recipe: all that the maps depend on but the samples: a file of another recipe is made anew.
        shard: the part of the samples that this run makes.

    Returns:
        JSON-ready ``{"folder", "complete", "items", "made", "kept", "seconds", "skipped"}`` of this
        shard; ``seconds`` were spent on maps, without loading the model.
    """
    part = ShardConfig() if shard is None else shard
    keys = _keys(recipe, samples)
    content = {"recipe": recipe, "items": config_hash(keys)}
    mine = samples[part.index :: part.count]
    folder.mkdir(parents=True, exist_ok=True)
    with _finishing(folder):
        claim(folder, recipe)
    notes = folder / _PROBLEMS.format(part.index, part.count)
    with FileLock(folder / f".{notes.stem}.lock"):  # a second run waits, and finds them made
        whole = is_valid(folder, content)
        pending = [s for s in mine if _done(folder, s, keys[s.id]) is None]
        if whole and not pending:
            return _summary(folder, len(mine), 0, 0.0, [], complete=True)
        with _finishing(folder):
            remove_manifest(folder)
            notes.unlink(missing_ok=True)
        report, seconds = _make(open_segmenter, pending, folder, keys, seed)
        write_json(notes, {"problems": [asdict(row) for row in report.problems]})
        with _finishing(folder):
            commits = _finish(folder, samples, keys, part.count)
            if commits is not None:
                write_manifest(folder, content, commit=join_commits(commits))
    made = len(pending) - len(report.problems)
    return _summary(folder, len(mine), made, seconds, report.problems, complete=commits is not None)


def _finishing(folder: Path) -> FileLock:
    """Held by the shard that looks at, or takes back, what all shards have declared."""
    return FileLock(folder / ".finish.lock")


def _keys(recipe: dict[str, Any], samples: Sequence[SegmentationSample]) -> dict[str, str]:
    """What each item's maps are made of: the recipe, the classes, and the image's file."""
    shared = config_hash(recipe)
    return {
        s.id: config_hash({"recipe": shared, "classes": s.classes, "bytes": _bytes(s.image_path)})
        for s in samples
    }


def _bytes(path: Path) -> int:
    try:
        return path.stat().st_size
    except OSError:
        return -1  # whoever opens it will say so


def _make(
    open_segmenter: Callable[[], TextToMask],
    pending: Sequence[SegmentationSample],
    folder: Path,
    keys: dict[str, str],
    seed: int,
) -> tuple[ProblemReport, float]:
    """Makes maps one image after the other, and goes on after a broken one."""
    report = ProblemReport(total=len(pending))
    if not pending:
        return report, 0.0
    segmenter = open_segmenter()
    start = time.perf_counter()
    for sample in progress(pending, f"maps {folder.name}"):
        try:
            note = note_of(sample.image_path)  # before it is read: a later change is noticed
            maps = segmenter.maps(load_image(sample), sample.classes, item=sample.id, seed=seed)
        except InputError as error:
            report.add(sample.id, error)
            continue
        _write(maps_path(folder, sample.id), maps, keys[sample.id], note)
    return report, round(time.perf_counter() - start, 2)


def maps_path(folder: Path, item: str) -> Path:
    """The file of an item."""
    return folder / f"{item}.safetensors"


def read_maps(folder: Path, item: str) -> ClassMaps:
    """The maps of an item, float32; InputError for a file that is missing or broken."""
    path = maps_path(folder, item)
    try:
        header, tensors = _read(path)
    except (OSError, SafetensorError) as error:
        raise InputError(path, "maps", f"there are none that can be read: {error}") from error
    if not header:
        reason = "the file was not written here, or was damaged since; attention_aggregation "
        raise InputError(path, "maps", f"{reason}makes it again")
    sizes = header["geometry"]
    geometry = Geometry(**{name: (size[0], size[1]) for name, size in sizes.items()})
    maps, cross, peaks = (tensors[name].float() for name in _TENSORS)
    return ClassMaps(tuple(header["keys"]), maps, cross, peaks, geometry)


def _summary(
    folder: Path, items: int, made: int, seconds: float, problems: list[Problem], *, complete: bool
) -> dict[str, Any]:
    return {
        "folder": folder.name,
        "complete": complete,
        "items": items,
        "made": made,
        "kept": items - made - len(problems),
        "seconds": seconds,
        "skipped": ProblemReport(items, problems).to_dict(),
    }


def _finish(
    folder: Path, samples: Sequence[SegmentationSample], keys: dict[str, str], count: int
) -> list[str] | None:
    """The commits that made the maps; None while an item has none, and nobody knows why.

    Once all are there, it tidies up.
    """
    current = {folder / _PROBLEMS.format(index, count) for index in range(count)}
    if not all(path.exists() for path in current):
        return None
    for stale in set(folder.glob("problems-*-of-*.json")) - current:
        stale.unlink(missing_ok=True)
    known = {row.item for row in _noted(folder)}
    commits = []
    for sample in samples:
        commit_of_maps = _done(folder, sample, keys[sample.id])
        if commit_of_maps is not None:
            commits.append(commit_of_maps)
        elif sample.id not in known:
            return None
    for stale in folder.rglob(".*.part"):  # left behind by killed runs
        stale.unlink(missing_ok=True)
    return commits


def _noted(folder: Path) -> list[Problem]:
    """What all parts noted as broken."""
    files = sorted(folder.glob("problems-*-of-*.json"))
    rows = [row for file in files for row in (read_json(file) or {}).get("problems", [])]
    return [Problem(**row) for row in rows]


def _write(path: Path, maps: ClassMaps, key: str, image: FileNote | None) -> None:
    header = {
        "recipe": key,
        "keys": maps.keys,
        "geometry": asdict(maps.geometry),
        "image": image,
        "commit": commit(),
    }
    tensors = {name: getattr(maps, name).to(torch.float16).contiguous() for name in _TENSORS}
    header["digest"] = _digest(header, tensors)
    # One entry: several are written in an order that changes from run to run.
    about = {_ABOUT: json.dumps(header, sort_keys=True)}
    write_whole(path, lambda part: save_file(tensors, part, metadata=about))


def _done(folder: Path, sample: SegmentationSample, key: str) -> str | None:
    """The commit that made a sample's maps, as they are there, of what ``key`` and its image say.

    None if there are none such.
    """
    try:
        header, _ = _read(maps_path(folder, sample.id))
    except (OSError, SafetensorError):
        return None
    note = FileNote(*header["image"]) if header.get("image") else None
    if header.get("recipe") != key or not is_unchanged(sample.image_path, note):
        return None
    return str(header["commit"])


def _read(path: Path) -> tuple[dict[str, Any], dict[str, Tensor]]:
    """What :func:`_write` noted, empty in a file that is not ours or was damaged; and the maps."""
    with safe_open(path, framework="pt") as file:
        tensors = {name: file.get_tensor(name) for name in file.keys()}  # noqa: SIM118
        about = (file.metadata() or {}).get(_ABOUT, "{}")
    try:
        header: dict[str, Any] = json.loads(about)
        whole = header.pop("digest", None) == _digest(header, tensors)
    except (ValueError, TypeError, AttributeError):
        whole = False
    return (header, tensors) if whole else ({}, {})


def _digest(header: dict[str, Any], tensors: dict[str, Tensor]) -> str:
    """A hash of all that a file holds: 7 kB a class are read in no time."""
    digest = hashlib.blake2b(json.dumps(header, sort_keys=True).encode(), digest_size=8)
    for name in sorted(tensors):
        digest.update(name.encode() + tensors[name].numpy().tobytes())
    return digest.hexdigest()
