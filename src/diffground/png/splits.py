"""The splits as an experiment reads them: which narratives, and which of their files are broken."""

from __future__ import annotations

import json
import logging
from collections.abc import Mapping
from functools import lru_cache
from pathlib import Path
from typing import Any

from filelock import FileLock
from pydantic import PositiveInt

from diffground.config import Config
from diffground.manifest import config_hash, fingerprint, read_manifest
from diffground.png.annotations import CategoryMap, Layout
from diffground.png.doctor import examine
from diffground.png.samples import PngBenchmark, PngSample
from diffground.training.loop import atomic_save

log = logging.getLogger(__name__)


class PngSplits(Config):
    """Which narratives are read. PNG has no test split: validation is what papers report."""

    train: str = "train2017"
    val: str = "val2017"
    layout: Layout = "auto"
    train_limit: PositiveInt | None = None  # narratives, in file order
    deep_check: bool = True  # opens every training file once, and skips the broken ones


def data_fingerprint(coco: Path) -> str:
    """The data's hash: the manifest's digest, or for a downloaded copy that of its JSON files."""
    manifest = read_manifest(coco)
    if manifest:
        return manifest.digest
    folder = coco / "annotations"
    stamps = [(path.name, path.stat().st_mtime_ns) for path in sorted(folder.glob("*.json"))]
    return _annotations_hash(folder, tuple(stamps))


@lru_cache
def _annotations_hash(folder: Path, stamps: tuple[tuple[str, int], ...]) -> str:
    """Hashes COCO's JSON files (gigabytes) once per process and version of them."""
    return fingerprint(folder, ("*.json",))


def read_split(
    coco: Path, split: str, layout: Layout, *, limit: int | None, max_phrases: int | None
) -> tuple[list[PngSample], CategoryMap]:
    """A split's usable samples, in file order, and the category map."""
    benchmark = PngBenchmark(coco, split, layout)
    samples, report = benchmark.read(max_phrases=max_phrases, limit=limit)
    if report.problems:
        log.warning("%s: %d of %d narratives skipped", split, len(report.problems), report.total)
    return samples, benchmark.categories


def examine_training_data(
    coco: Path, splits: PngSplits, max_phrases: int, cache: Path
) -> dict[str, Any]:
    """The doctor's findings on the training split.

    They are kept in the folder ``cache``, as opening all files of COCO takes an hour, and made anew
    when the JSON files have changed or one of the broken files has.
    """
    benchmark = PngBenchmark(coco, splits.train, splits.layout)
    options: dict[str, Any] = {
        "deep": splits.deep_check,
        "max_phrases": max_phrases,
        "limit": splits.train_limit,
    }
    key = {"coco": data_fingerprint(coco), "split": benchmark.split, **options}
    kept = cache / f"doctor-{config_hash(key)[:12]}.json"
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{kept.name}.lock"):  # of several processes one looks, the others wait
        if kept.exists():
            content = json.loads(kept.read_text("utf-8"))
            if all(_stamp(file) == stamp for file, stamp in content["broken"].items()):
                found: dict[str, Any] = content["found"]
                return found
        found = examine(benchmark, **options)
        problems = found["deep"]["problems"] if found["deep"] else []
        broken = {problem["file"]: _stamp(problem["file"]) for problem in problems}
        write_json(kept, {"found": found, "broken": broken})
    return found


def _stamp(file: str) -> int:
    """When a file was changed last; 0 if it is not there."""
    path = Path(file)
    return path.stat().st_mtime_ns if path.exists() else 0


def broken_samples(doctor: Mapping[str, Any]) -> frozenset[str]:
    """Ids of the samples whose image or PNG the doctor could not open."""
    deep = doctor["deep"]
    return frozenset(problem["item"] for problem in deep["problems"]) if deep else frozenset()


def write_json(path: Path, data: Any) -> None:
    """Writes JSON in one step."""
    text = json.dumps(data, indent=2) + "\n"

    def write(target: Path) -> None:
        target.write_text(text, encoding="utf-8")

    atomic_save(write, path)
