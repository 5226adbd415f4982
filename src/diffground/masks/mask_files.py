"""Mask files of a data set: made image by image, by several processes and machines, and resumed.

A folder of masks::

    <folder>/mask/<id>.png         pseudo masks, 255 where the CRF is unsure
             label/<id>.png        the same without the 255s, as they are measured
             initial/<id>.png      labels before the CRF
             confidence/<id>.png   the posterior of the best label, grey, 255 = certain
             recipe.json           what the masks depend on
             shard-000-of-001.json of this part: the items that have no mask, and why; of the others
                                   hashes of their files and of what they were made from, and the
                                   commit that made them
             manifest.json         written last: its presence means whole

Every file appears whole, and an item's ``mask`` after its other files. An item is done whose files
have the hash that was noted; while there is no note, one whose files can be read and are not older
than what they were made from. So a run that is killed goes on where it was, and ends with the same
bytes, and what was damaged since, or made from something else, is made again. Nothing is collected:
at most ``look_ahead`` images are in memory, and metrics are read from the files
(:mod:`diffground.masks.measure`).

``K`` classes, so K + 1 labels with the background first
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from functools import partial
from pathlib import Path
from typing import Annotated, Any, Final, Literal, Self

import numpy as np
from filelock import FileLock
from numpy.typing import NDArray
from pydantic import BaseModel, Field, NonNegativeInt, PositiveInt, model_validator

from diffground.config import NOT_IN_KEY, Compat, Config
from diffground.errors import InputError, Problem, ProblemReport
from diffground.io.files import read_json, write_json
from diffground.io.labels import read_confidence, read_labels, write_confidence, write_labels
from diffground.io.notes import digest_of
from diffground.masks import crf
from diffground.masks.crf import CrfConfig, check_backend, dense_crf
from diffground.masks.labels import labels_of
from diffground.masks.uncertainty import uncertain
from diffground.metrics.iou import UNSURE
from diffground.progress import progress
from diffground.provenance import RECIPE, claim, code_change, code_of, commit, join_commits
from diffground.store.manifest import (
    Configuration,
    config_hash,
    is_valid,
    read_manifest,
    remove_manifest,
    write_manifest,
)
from diffground.store.pool import outcomes

Layer = Literal["mask", "label", "initial", "confidence"]

# Raised when the same posterior gives other labels, here or in `labels` and `uncertainty`.
CODE_VERSION: Final = 1

Note = tuple[str, str | None, str]  # hash of an item's files, of what they are made from; commit


class MaskConfig(Config):
    """How scores become mask files."""

    crf: CrfConfig = CrfConfig()
    threshold: float = Field(
        0.95, ge=0, le=1
    )  # pixels less certain are 255 in `mask`: `write_masks`
    label: bool = True  # also keep the labels of all pixels: the public code measures these
    initial: bool = False  # also keep the labels before the CRF; the work must bring them
    confidence: bool = False  # also keep the confidence

    def layers(self) -> tuple[Layer, ...]:
        """The files of an item, in the order in which they are written."""
        optional: tuple[Layer, ...] = ("label", "initial", "confidence")
        return (*(layer for layer in optional if getattr(self, layer)), "mask")


class ShardConfig(Config):
    """The part of the items that this run makes: every ``count``-th one."""

    index: NonNegativeInt = 0
    count: PositiveInt = 1

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.index >= self.count:
            raise ValueError(f"index {self.index} is not in 0 … {self.count - 1}")
        return self


class WorkConfig(Config):
    """Who makes the files. What they are does not depend on it."""

    shard: ShardConfig = ShardConfig()
    # Processes for the CRF; 0 = this one, while nothing else is made.
    workers: Annotated[NonNegativeInt, NOT_IN_KEY] = 0
    look_ahead: PositiveInt | None = None  # images in memory at once; None = 2 x workers

    @model_validator(mode="after")
    def _look_ahead_is_used(self) -> Self:
        if self.look_ahead is not None and not self.workers:
            raise ValueError("look_ahead: without workers there is one image at a time")
        return self


@dataclass(frozen=True, eq=False)  # arrays cannot be compared as one
class MaskWork:
    """One image as the CRF wants it."""

    image: NDArray[np.uint8]  # RGB (H, W, 3)
    scores: NDArray[np.floating]  # (K + 1, H, W), background first, see `dense_crf`
    label_ids: tuple[int, ...]  # K + 1 label ids, below 255
    initial: NDArray[np.uint8] | None = None  # labels before the CRF (H, W)

    def __post_init__(self) -> None:
        size = self.image.shape[:2]
        assert self.scores.shape == (len(self.label_ids), *size), (self.scores.shape, size)
        assert self.initial is None or self.initial.shape == size, size


def mask_path(folder: str | Path, item: str, layer: Layer = "mask") -> Path:
    """The file of an item."""
    return Path(folder) / layer / f"{item}.png"


def write_masks(
    ids: Sequence[str],
    make: Callable[[str], MaskWork],
    folder: str | Path,
    config: MaskConfig,
    work: WorkConfig,
    *,
    compat: Compat,
    recipe: Configuration,
    made_from: Callable[[str], Path] | None = None,
) -> dict[str, Any]:
    """Makes the mask files of ``ids`` that are not there.

    Args:
        ids: of *all* items, the same list for all shards; names of files, "/" makes folders.
            With a longer list, a folder is filled further.
        make: the scores of an item, called here one item after the other, only for those that are
            missing, and never further ahead than ``work.look_ahead``. Its :class:`InputError` is
            reported, and the other items go on.
        folder: filled in place; may be shared by the machines of several shards.
        config: CRF, threshold, and which files to keep.
        work: this run's shard and processes.
        compat: the CRF's picture, and which pixels of ``mask`` are 255: ``official`` where its
            posterior is below the threshold, ``paper`` where two attention scores are less than
            1 - threshold apart (see :mod:`diffground.masks.uncertainty`).
        recipe: what else the masks depend on (model, prompts, data). A folder that was begun with
            another one is refused.
        made_from: the file that an item is made from. If it is another one now, the mask is made
            again; it may be gone once the mask is there. None: nothing is compared.

    Returns:
        JSON-ready ``{"folder", "complete", "items", "made", "kept", "skipped"}``: of this shard,
        ``skipped`` as :meth:`~diffground.errors.ProblemReport.to_dict`. ``complete`` is False while
        other shards are not there; an item that was reported does not hinder it.

    Raises:
        InputError: no items, a name twice or one that is no file name, another recipe or one that
            cannot be read, or pydensecrf is wanted and not installed.
    """
    folder = Path(folder)
    _check_ids(ids, folder)
    check_backend(config.crf)  # here: later it would be the fault of every single item
    store = _Store(folder, tuple(ids), config, compat, work.shard, recipe, made_from)
    mine = ids[work.shard.index :: work.shard.count]
    folder.mkdir(parents=True, exist_ok=True)
    report = ProblemReport(total=len(mine))
    with FileLock(folder / f".{store.report_path(work.shard.index).stem}.lock"):
        store.check_recipe()
        whole = is_valid(folder, store.manifest_config)
        pending = [item for item in mine if not store.is_done(item)]
        if pending or not whole or not store.has_noted(mine):
            remove_manifest(folder)
            store.begin(mine, pending)
            refine = partial(_refine, folder, config, compat)
            ended = outcomes(
                pending, make, refine, workers=work.workers, look_ahead=work.look_ahead
            )
            for problem in progress(ended, f"masks {folder.name}", total=len(pending)):
                report.problems += [problem] if problem else []
            order = {item: row for row, item in enumerate(mine)}
            report.problems.sort(key=lambda problem: order[problem.item])
            store.write_report(mine, report)
            whole = store.finish()
    return {
        "folder": folder.name,
        "complete": whole,
        "items": len(mine),
        "made": len(pending) - len(report.problems),
        "kept": len(mine) - len(pending),
        "skipped": report.to_dict(),
    }


def _refine(folder: Path, config: MaskConfig, compat: Compat, item: str, work: MaskWork) -> None:
    """Runs the CRF and writes an item's files, ``mask`` last; in whichever process."""
    posterior = dense_crf(work.image, work.scores, config.crf, compat)
    labels, confidence = labels_of(posterior, work.label_ids, None)
    for layer in config.layers():
        path = mask_path(folder, item, layer)
        if layer == "confidence":
            write_confidence(path, confidence)
        elif layer == "initial":
            assert work.initial is not None, "config.initial wants the labels before the CRF"
            write_labels(path, work.initial)
        elif layer == "label":
            write_labels(path, labels)
        elif compat == "official":
            write_labels(path, labels_of(posterior, work.label_ids, config.threshold)[0])
        else:
            unsure = uncertain(work.scores, compat, 1 - config.threshold)
            write_labels(path, np.where(unsure, np.uint8(UNSURE), labels))


def code_of_masks() -> dict[str, int]:
    """The code versions that masks depend on besides their scores."""
    return code_of(crf) | {"masks": CODE_VERSION}


class _Store:
    """What lies in the folder, and what should."""

    def __init__(
        self,
        folder: Path,
        ids: tuple[str, ...],
        config: MaskConfig,
        compat: Compat,
        shard: ShardConfig,
        recipe: Configuration,
        made_from: Callable[[str], Path] | None,
    ) -> None:
        self.made_from = made_from
        self.folder, self.ids, self.config, self.shard = folder, ids, config, shard
        # Not the device: machines that share a folder may differ.
        masks = config.model_dump(mode="json", exclude={"crf": {"device"}})
        made = recipe.model_dump(mode="json") if isinstance(recipe, BaseModel) else dict(recipe)
        self.recipe: dict[str, Any] = {
            "code": code_of_masks(),
            "masks": masks,
            "compat": compat,
            "recipe": made,
        }
        self.ids_hash = config_hash({"ids": list(ids)})
        self.manifest_config = self.recipe | {"ids": self.ids_hash}
        self.notes, self.begun = self._read_notes()
        self._pending: frozenset[str] = frozenset()
        self._sources: dict[str, str | None] = {}

    def report_path(self, index: int) -> Path:
        """The problems of a shard."""
        return self.folder / f"shard-{index:03d}-of-{self.shard.count:03d}.json"

    def check_recipe(self) -> None:
        """Notes what the masks depend on; refuses a folder that was begun with something else."""
        path = self.folder / RECIPE
        if not path.exists():
            claim(self.folder, self.recipe)
            return
        before = read_json(path)
        if before is None or not self.recipe.keys() <= before.keys():
            manifest = read_manifest(self.folder)
            if manifest is None or not self.recipe.keys() <= manifest.config.keys():
                raise InputError(
                    path,
                    "JSON",
                    "the file is empty or cut, so nobody knows what the folder's masks were made "
                    "with; remove the folder to make them again",
                )
            before = {key: manifest.config[key] for key in self.recipe}
            write_json(path, before)
        other = [key for key, part in self.recipe.items() if not _equal(before.get(key), part)]
        if other:
            change = code_change(before, self.recipe)
            found = f"code ({change})" if change else "parameters"
            raise InputError(
                path,
                ", ".join(other),
                f"the folder's masks were made with other {found}; "
                "choose another folder, or remove this one to make them again",
            )

    def is_done(self, item: str) -> bool:
        """Whether an item's files are those that were made, of what is there to make it from."""
        if not self.is_there(item):
            return False
        paths = self._paths(item)
        if item not in self.notes:
            return not self._is_old(item, paths[-1]) and self._is_readable(item)
        files, source, _ = self.notes[item]
        return digest_of(*paths) == files and self._source(item) in (None, source)

    def is_there(self, item: str) -> bool:
        """Whether an item has its files."""
        return all(path.exists() for path in self._paths(item))

    def has_noted(self, items: Sequence[str]) -> bool:
        """Whether the report speaks of all ``items``, as far as they have files."""
        return all(item in self.notes for item in items if self.is_there(item))

    def begin(self, mine: Sequence[str], pending: Sequence[str]) -> None:
        """Takes back that the shard is finished, and keeps what is known of the other items."""
        self._sources = {item: self._source(item) for item in mine}  # before they are read
        self._pending = frozenset(pending)
        for item in pending:
            self.notes.pop(item, None)
        kept = {item: self.notes[item] for item in mine if item in self.notes}
        begun = join_commits([self.begun, commit()])
        content: dict[str, Any] = {"ids": None, "problems": [], "items": kept, "begun": begun}
        write_json(self.report_path(self.shard.index), content)

    def write_report(self, mine: Sequence[str], report: ProblemReport) -> None:
        """Declares that this run's shard is finished."""
        for item in mine:
            if item not in self.notes and self.is_there(item):
                by = commit() if item in self._pending else self.begun
                self.notes[item] = digest_of(*self._paths(item)), self._sources[item], by
        content = {
            "ids": self.ids_hash,
            "problems": [asdict(row) for row in report.problems],
            "items": {item: self.notes[item] for item in mine if item in self.notes},
        }
        write_json(self.report_path(self.shard.index), content)

    def _read_notes(self) -> tuple[dict[str, Note], str]:
        """What all shards of any run noted of items; and by which commits the others may be."""
        notes: dict[str, Note] = {}
        manifest = read_manifest(self.folder)
        begun = [manifest.made.commit] if manifest else []
        for path in sorted(self.folder.glob("shard-*-of-*.json")):
            content = read_json(path) or {}
            begun.append(content.get("begun", ""))
            for item, (files, source, by) in content.get("items", {}).items():
                notes[item] = files, source, by
        return notes, join_commits(begun)

    def _paths(self, item: str) -> list[Path]:
        return [mask_path(self.folder, item, layer) for layer in self.config.layers()]

    def _source(self, item: str) -> str | None:
        """The hash of what an item is made from; None if it is gone, or does not matter."""
        if self.made_from is None:
            return None
        try:
            return digest_of(self.made_from(item))
        except OSError:
            return None

    def _is_readable(self, item: str) -> bool:
        try:
            for layer in self.config.layers():
                path = mask_path(self.folder, item, layer)
                read_confidence(path) if layer == "confidence" else read_labels(path)
        except InputError:
            return False
        return True

    def _is_old(self, item: str, mask: Path) -> bool:
        if self.made_from is None:
            return False
        try:
            return self.made_from(item).stat().st_mtime_ns > mask.stat().st_mtime_ns
        except FileNotFoundError:
            return False

    def finish(self) -> bool:
        """Writes the manifest if every shard is finished."""
        with FileLock(self.folder / ".finish.lock"):
            known: set[str] = set()
            commits = []
            for index in range(self.shard.count):
                report = read_json(self.report_path(index))
                if report is None or report.get("ids") != self.ids_hash:
                    return False
                known |= {Problem(**row).item for row in report["problems"]}
                commits += [by for _, _, by in report["items"].values()]
            if not all(item in known or self.is_there(item) for item in self.ids):
                return False
            # Left behind by killed runs; no run is writing now.
            for stale in self.folder.rglob(".*.part"):
                stale.unlink(missing_ok=True)
            current = {self.report_path(index) for index in range(self.shard.count)}
            for stale in set(self.folder.glob("shard-*-of-*.json")) - current:
                stale.unlink(missing_ok=True)
            write_manifest(self.folder, self.manifest_config, commit=join_commits(commits))
            return True


def _check_ids(ids: Sequence[str], folder: Path) -> None:
    if not ids:
        raise InputError(folder, "ids", "there is no item to make a mask of")
    seen: set[str] = set()
    for item in ids:
        # Hidden files would not be in the manifest.
        if any(not part or part.startswith(".") for part in item.split("/")):
            raise InputError(folder, f"item {item!r}", "its name cannot be the name of a file")
        if item in seen:
            raise InputError(folder, f"item {item!r}", "the name occurs twice")
        seen.add(item)


def _equal(one: Any, other: Any) -> bool:
    return config_hash({"": one}) == config_hash({"": other})
