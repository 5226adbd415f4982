"""The splits as an experiment reads them: which narratives, which of their files are broken, and
which of their nouns are held out of the training.
"""

from __future__ import annotations

import difflib
import logging
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Self

from filelock import FileLock

from diffground.data import png_doctor as doctor_code
from diffground.data.config import PngSplits
from diffground.data.png_annotations import CategoryMap, Layout
from diffground.data.png_benchmark import PngBenchmark, PngSample
from diffground.data.png_doctor import examine, problems_of
from diffground.errors import ACCESS, InputError, shortened
from diffground.io.files import read_json, write_json
from diffground.io.notes import state_of
from diffground.provenance import Made, code_of, say_why
from diffground.store.manifest import config_hash, fingerprint, read_manifest

log = logging.getLogger(__name__)

HELD_OUT = "png.splits.held_out"


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


@dataclass(frozen=True)
class Narratives:
    """The usable narratives of a split, as they were read.

    Attributes:
        coco: the benchmark's folder.
        split, layout, limit, max_phrases: what was asked for.
        samples: in file order.
    """

    coco: Path
    split: str
    layout: Layout
    limit: int | None
    max_phrases: int | None
    samples: list[PngSample]
    categories: CategoryMap

    @classmethod
    def read(
        cls, coco: Path, split: str, layout: Layout, *, limit: int | None, max_phrases: int | None
    ) -> Self:
        """Reads a split; InputError if it is missing or cannot be used as a whole."""
        benchmark = PngBenchmark(coco, split, layout)
        samples, report = benchmark.read(max_phrases=max_phrases, limit=limit)
        if report.problems:
            found = len(report.problems)
            log.warning("%s: %d of %d narratives skipped", split, found, report.total)
        return cls(coco, split, layout, limit, max_phrases, samples, benchmark.categories)

    def ids_of(self, names: Sequence[str], field: str) -> frozenset[int]:
        """The categories of these names; InputError naming ``field`` for one that there is not."""
        known = dict(zip(self.categories.names, self.categories.ids, strict=True))
        for name in names:
            if name not in known:
                near = difflib.get_close_matches(name, known, n=3, cutoff=0.0)
                reason = f"there is no category {shortened(name)}; near: {', '.join(near)}"
                raise InputError(self.coco, field, reason)
        return frozenset(known[name] for name in names)

    def without(self, names: Sequence[str]) -> Self:
        """Without the narratives that ground a category of these names, be it in a dropped phrase.

        Raises:
            InputError: there is no such category, or no narrative is left.
        """
        if not names:
            return self
        held_out = self.ids_of(names, HELD_OUT)
        left = [sample for sample in self.samples if held_out.isdisjoint(sample.category_ids)]
        log.info("%s: %d of %d narratives", self.split, len(left), len(self.samples))
        if not left:
            reason = f"each narrative of {self.split} grounds one of these categories"
            raise InputError(self.coco, HELD_OUT, reason)
        return replace(self, samples=left)


def examine_training_data(
    coco: Path, splits: PngSplits, max_phrases: int, cache: Path
) -> dict[str, Any]:
    """The doctor's findings on the training split.

    They are kept in the folder ``cache``, as opening all files of COCO takes an hour, and made anew
    when a JSON file or the size or date of any image or PNG has changed, or when one can be opened
    that could not be before.
    """
    benchmark = PngBenchmark(coco, splits.train, splits.layout)
    key, kept = _findings(coco, splits, max_phrases, cache)
    cache.mkdir(parents=True, exist_ok=True)
    with FileLock(cache / f".{kept.name}.lock"):  # of several processes one looks, the others wait
        state = state_of(benchmark.image_folder, benchmark.panoptic_folder)
        before = _kept_findings(kept)
        if before and before["files"] == state and not any(map(_opens, before["denied"])):
            found: dict[str, Any] = before["found"]
            return found
        if before is None:
            say_why(kept, key, cache.glob("doctor-*.json"), "key")
        found = examine(
            benchmark, deep=splits.deep_check, max_phrases=max_phrases, limit=splits.train_limit
        )
        denied = sorted({row["file"] for row in problems_of(found) if row["field"] == ACCESS})
        about = {"key": key, **Made.now().model_dump()}
        write_json(kept, about | {"found": found, "files": state, "denied": denied})
    return found


def broken_samples(doctor: Mapping[str, Any]) -> frozenset[str]:
    """Ids of the samples whose image or PNG is missing or could not be opened or used."""
    problems = problems_of(doctor)
    return frozenset(row["item"] for row in problems if not row["file"].endswith(".json"))


def left_out(coco: Path, splits: PngSplits, max_phrases: int, cache: Path) -> list[str]:
    """The :func:`broken_samples` of the doctor's last findings under ``cache``, sorted.

    Their absence is a part of what a model learnt from; what the JSON files themselves leave out is
    known by their hash. Nothing is opened; empty where the doctor was not asked.
    """
    findings = _kept_findings(_findings(coco, splits, max_phrases, cache)[1])
    return sorted(broken_samples(findings["found"])) if findings else []


def _findings(
    coco: Path, splits: PngSplits, max_phrases: int, cache: Path
) -> tuple[dict[str, Any], Path]:
    """What the doctor's findings depend on, and where they are kept."""
    key = {
        "coco": data_fingerprint(coco),
        "split": splits.train,
        "deep": splits.deep_check,
        "max_phrases": max_phrases,
        "limit": splits.train_limit,
        "code": code_of(doctor_code),
    }
    return key, cache / f"doctor-{config_hash(key)[:12]}.json"


def _kept_findings(path: Path) -> dict[str, Any] | None:
    """What :func:`examine_training_data` kept; None if that is missing, cut, or of another form."""
    content = read_json(path)
    whole = content is not None and {"found", "files", "denied"} <= content.keys()
    return content if whole else None


def _opens(file: str) -> bool:
    """Whether a file or folder that the system denied is to be had now."""
    path = Path(file)
    try:
        if path.is_dir():
            next(path.iterdir(), None)
        else:
            with path.open("rb") as stream:
                stream.read(1)
    except OSError:
        return False
    return True
