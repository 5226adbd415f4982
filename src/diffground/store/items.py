"""The one store of things that are made item by item: resumed, shared out, and checked.

A store is a folder that knows nothing of what its items are::

    <folder>/...                      the items' files, one or several each
             recipe.json              what all items depend on, code versions among it
             shard-000-of-001.jsonl   a line for each item of this part: hashes of its files, notes
                                      of what it was made from, the commit that made it, and what is
                                      to be said about it; or why it could not be made. The last
                                      line says that the part is finished
             others.jsonl             the same of items that were made when others were asked for
             manifest.json            written last: its presence means whole

An item is done when its files have the noted hashes, and were made by this recipe from what is
there now. The line is written as soon as its files are: a run that is killed loses only what it had
in its hands. What was damaged since, or made from something else, is made again, and the folder
ends with the same bytes whoever made it in how many runs. Nothing is collected in memory but notes.
"""

from __future__ import annotations

import logging
import time
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Any, TypedDict, TypeVar

from filelock import FileLock

from diffground.errors import InputError, Problem, ProblemReport, shortened
from diffground.io.notes import FileNote, digest_of, is_unchanged, note_of
from diffground.io.paths import inside
from diffground.progress import progress
from diffground.provenance import Recipe, claim, commit, join_commits
from diffground.store import pool, ray_pool
from diffground.store.config import ShardConfig, WorkConfig
from diffground.store.manifest import config_hash, is_valid, remove_manifest, write_manifest
from diffground.store.reports import (
    REPORTS,
    About,
    Note,
    is_intact,
    line_of,
    notes_in,
    read_report,
    write_report,
)

OTHERS = "others.jsonl"

log = logging.getLogger(__name__)

Work = TypeVar("Work")


@dataclass(frozen=True)
class Item:
    """One thing that is kept, and what it is made of."""

    id: str
    files: tuple[str, ...]  # their names below the store's folder; "/" makes folders
    of: Any = None  # JSON-ready: what it is made of beside the recipe, say the classes asked for
    sources: Mapping[str, Path] = field(default_factory=dict)  # files that it is made from


class Summary(TypedDict):
    """What one run did, JSON-ready. Numbers are of its shard."""

    folder: str  # its name
    complete: bool  # whether all shards are made; items that cannot be made don't hinder it
    items: int
    made: int
    kept: int  # made by earlier runs
    seconds: float  # spent on making
    skipped: dict[str, Any]  # items that could not be made: ProblemReport.to_dict


def fill(
    folder: Path,
    recipe: Recipe,
    items: Sequence[Item],
    make: Callable[[str], Work],
    finish: Callable[[str, Work], About | None],
    *,
    what: str,
    work: WorkConfig | None = None,
    ready: Callable[[], object] | None = None,
    hidden: bool = False,
) -> Summary:
    """Makes the items that are missing, damaged, or made from something else.

    Args:
        folder: filled in place; may be shared by the machines of several shards.
        recipe: JSON-ready, all that every item depends on. Items of another one are made again.
        items: *all* of them, the same list for every shard. Those that are not in it are left.
        make: called with an item's id, one after the other; here, or in each process of Ray, to
            which it goes with ``finish`` and ``ready`` as pickles. Its :class:`InputError` is the
            item's: it is reported, tried again by the next run, and the others go on. One of what
            the system denied (:attr:`~diffground.errors.Problem.may_pass`) keeps the store from
            being complete, and a :class:`WriteError` ends the run.
        finish: called with the id and what ``make`` returned, here or in a process of the pool;
            writes the files, each whole, and returns what is to be noted about the item. Its
            errors end the run: no item is to blame for a full disk or a setting that cannot be.
        what: the items are, in a word or two.
        work: this run's shard and processes.
        ready: called once before anything is made, if there is anything, by whoever makes it; loads
            a model, say.
        hidden: shows no progress.

    Raises:
        InputError: no items, an id twice, or one that cannot be the name of a file; or ``finish``
            or ``ready`` raised it.
    """
    work = WorkConfig() if work is None else work
    _check(items, folder)
    folder.mkdir(parents=True, exist_ok=True)
    shard = _Shard(folder, recipe, items, work.shard)
    entries: dict[str, Note | Problem] = {}
    seconds = 0.0
    with FileLock(folder / f".{work.shard.report}.lock"):  # a second run waits, and finds all made
        notes = shard.notes()
        pending = [item for item in shard.mine if not shard.is_done(item, notes.get(item.id))]
        whole = is_valid(folder, shard.content)
        if pending or not whole:
            for item in pending:
                notes.pop(item.id, None)
            shard.begin(notes)
            if pending and ready is not None and work.executor == "plain":
                ready()
            start = time.perf_counter()
            made = shard.made(pending, make, finish, ready, work)
            made = progress(made, f"{what} {folder.name}", total=len(pending), hidden=hidden)
            entries = {**notes, **{entry.item: entry for entry in made}}
            seconds = round(time.perf_counter() - start, 2)
            whole = shard.end(entries)
    known = (entries.get(item.id) for item in shard.mine)
    problems = [entry for entry in known if isinstance(entry, Problem)]
    for problem in problems:
        log.warning("%s is skipped: %s: %s", problem.item, problem.file, problem.reason)
    return Summary(
        folder=folder.name,
        complete=whole,
        items=len(shard.mine),
        made=len(pending) - len(problems),
        kept=len(shard.mine) - len(pending),
        seconds=seconds,
        skipped=ProblemReport(len(shard.mine), problems).to_dict(),
    )


def finished_notes(folder: Path, recipe: Recipe, items: Sequence[Item]) -> dict[str, Note]:
    """The notes of those items that :func:`fill` would keep, by id; nothing is changed."""
    store = _Shard(folder, recipe, items, ShardConfig())
    notes = store.notes()
    return {item.id: notes[item.id] for item in items if store.is_done(item, notes.get(item.id))}


class _Shard:
    """One part of a store, and what all parts have in common."""

    def __init__(
        self, folder: Path, recipe: Recipe, items: Sequence[Item], shard: ShardConfig
    ) -> None:
        self.folder, self.recipe, self.shard = folder, recipe, shard
        self.mine = items[shard.index :: shard.count]
        self.report = folder / shard.report
        by = config_hash(recipe)
        self.keys = {item.id: config_hash({"recipe": by, "of": item.of}) for item in items}
        self.asked = config_hash({"keys": list(self.keys.items())})
        self.content = {"recipe": recipe, "items": self.asked}  # of the manifest

    def notes(self) -> dict[str, Note]:
        """What any run noted; this part has the last word."""
        reports = sorted(self.folder.glob(REPORTS), key=lambda path: (path == self.report, path))
        return notes_in([self.folder / OTHERS, *reports])

    def is_done(self, item: Item, note: Note | None) -> bool:
        """Whether an item's files are those that were made, of what it is to be made of."""
        return (
            note is not None
            and note.key == self.keys[item.id]
            and note.files.keys() == {*item.files}
            and note.sources.keys() == item.sources.keys()
            and all(is_unchanged(path, note.sources[n]) for n, path in item.sources.items())
            and is_intact(self.folder, note)
        )

    def begin(self, notes: Mapping[str, Note]) -> None:
        """Takes back that the folder is whole, and keeps what is known of the other items."""
        with self._declaring():
            remove_manifest(self.folder)
            claim(self.folder, self.recipe)
            others = [note for item, note in notes.items() if item not in self.keys]
            if others:
                write_report(self.folder / OTHERS, others)
            write_report(self.report, [notes[item.id] for item in self.mine if item.id in notes])

    def made(
        self,
        pending: Sequence[Item],
        make: Callable[[str], Work],
        finish: Callable[[str, Work], About | None],
        ready: Callable[[], object] | None,
        work: WorkConfig,
    ) -> Iterator[Note | Problem]:
        """Makes items, and adds what becomes of each to the report at once."""
        sources: dict[str, dict[str, FileNote | None]] = {}

        def noted() -> Iterator[Item]:
            # Before they are read: a later change is noticed.
            for item in pending:
                sources[item.id] = {name: note_of(path) for name, path in item.sources.items()}
                yield item

        made, finished = partial(_made, make), partial(_finished, self.folder, finish)
        if work.executor == "ray":
            ended = ray_pool.outcomes(
                noted(), made, finished, ready=ready, workers=work.workers, config=work.ray
            )
        else:
            ended = pool.outcomes(noted(), made, finished, workers=work.workers)
        with self.report.open("a", encoding="utf-8") as report:
            for item, outcome in ended:
                entry: Note | Problem
                if isinstance(outcome, InputError):
                    entry = Problem.of(item.id, outcome)
                else:
                    entry = Note(
                        item=item.id,
                        key=self.keys[item.id],
                        files=outcome[0],
                        sources=sources.pop(item.id),
                        commit=commit(),
                        about=outcome[1],
                    )
                report.write(line_of(entry))
                report.flush()
                yield entry

    def end(self, entries: Mapping[str, Note | Problem]) -> bool:
        """Declares that this part is finished, and the folder whole if all parts are."""
        with self._declaring():
            mine = [entries[item.id] for item in self.mine if item.id in entries]
            write_report(self.report, mine, self.asked)
            parts = [ShardConfig(index=i, count=self.shard.count) for i in range(self.shard.count)]
            reports = [self.folder / part.report for part in parts]
            known = {entry.item: entry for entry in mine}
            for path in reports:
                if path == self.report:
                    continue
                found, asked = read_report(path)
                if asked != self.asked:
                    return False
                known |= {entry.item: entry for entry in found}
            settled = [known.get(item) for item in self.keys]
            if not all(isinstance(e, Note) or (e and not e.may_pass) for e in settled):
                return False
            # Left behind by killed runs, and runs of other shards; nobody is writing now.
            for stale in {*self.folder.glob(REPORTS)} - {*reports}:
                stale.unlink(missing_ok=True)
            for stale in self.folder.rglob(".*.part"):
                stale.unlink(missing_ok=True)
            by = join_commits(entry.commit for entry in settled if isinstance(entry, Note))
            write_manifest(self.folder, self.content, commit=by)
        return True

    def _declaring(self) -> FileLock:
        """Held by whoever takes back, or declares, what other parts look at."""
        return FileLock(self.folder / ".finish.lock")


def _made(make: Callable[[str], Work], item: Item) -> Work:
    return make(item.id)


def _finished(
    folder: Path, finish: Callable[[str, Work], About | None], item: Item, work: Work
) -> tuple[dict[str, str], About]:
    """The hashes of the files that ``finish`` wrote, and what it says; in whichever process."""
    about = finish(item.id, work)
    return {name: digest_of(folder / name) for name in item.files}, about or {}


def _check(items: Iterable[Item], folder: Path) -> None:
    seen: set[str] = set()
    for item in items:
        field = f"item {shortened(item.id)}"
        try:
            for name in item.files:  # hidden files would not be in the manifest
                inside(folder, name, folder, field)
            whole = all(all(name.split("/")) for name in item.files)
        except InputError:
            whole = False
        if not whole:
            raise InputError(folder, field, "its name cannot be the name of a file")
        if item.id in seen:
            raise InputError(folder, f"item {item.id!r}", "the name occurs twice")
        seen.add(item.id)
    if not seen:
        raise InputError(folder, "items", "there is no item to make")
