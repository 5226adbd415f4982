"""A working copy of a folder or a file that lies at a URL: an S3 bucket, say, by fsspec.

Everything here works on local folders. What lies elsewhere is copied before it is read, and what
was made is copied back, only what differs::

    mirror = Mirror("s3://bucket/text2mask", Path("data/remote/s3/bucket/text2mask"))
    mirror.pull()  # what is newer there
    ...  # files are read, a store is filled
    mirror.push()  # what is newer here

Beside the working copy, hidden, lies what is known of each file: the tag of the one there (its
size and ETag, or what the server has in place of that) and size, date and hash of the one here,
when they were the same. So each side shows by itself whether it was changed since.

Both ways a file takes its name when it is whole; items go first, then reports, then manifests: who
looks meanwhile sees no report of files that are not there. A copy that is killed goes on by the
same call.
"""

from __future__ import annotations

import json
import os
import shutil
import tempfile
from collections.abc import Callable, Iterable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from functools import partial
from pathlib import Path, PurePosixPath
from threading import Lock
from typing import Final, NamedTuple

from diffground.errors import InputError
from diffground.io.files import SEAL, write_lines
from diffground.io.locks import held
from diffground.io.notes import FileNote, digest_of, is_unchanged, note_of
from diffground.progress import Progress
from diffground.store.items import OTHERS
from diffground.store.manifest import MANIFEST
from diffground.store.reports import REPORTS
from diffground.store.urls import Place, Remote

POINTER: Final = "last.json"  # of a folder of folders: which of them was made last
AT_ONCE: Final = 16  # files on their way at a time: a bucket answers late, and many at once


class Carried(NamedTuple):
    """What one pull or push did."""

    files: int  # copied
    bytes: int
    removed: int  # files that the other side no longer has


class _Known(NamedTuple):
    """What is known of a file; both were the same when ``tag`` and ``note`` were taken."""

    tag: str | None = None  # of the one there; None: never seen
    note: FileNote | None = None  # of the one here
    sent: FileNote | None = None  # what a push began to send, and may have sent


class Mirror:
    """The working copy ``place`` of what lies at ``url``; a folder, or a single file.

    Hidden files stay where they are: they are locks and parts of files. Locks are of a machine:
    two of them that fill the same part of a store at once are not kept from it.

    Raises (every method):
        InputError: as :class:`~diffground.store.urls.Place`.
    """

    def __init__(self, url: str, place: Path) -> None:
        self.remote, self.place = Place(url), place
        self.url = self.remote.url
        self._journal = place.with_name(f".{place.name}.mirror.jsonl")
        self._known: dict[str, _Known] = {}
        self._noting = Lock()

    def pull(self) -> Carried:
        """Makes the working copy what is at the URL, but for what was changed here.

        What was changed on both sides since they were the same: of reports, manifests and single
        files the one there wins, as they can be made again.

        Raises:
            InputError: another file was changed on both sides; nothing was copied.
        """
        with self._held():
            there, here = self.remote.files(), self._here()
            if not there:  # a bucket that was emptied is filled again
                self._known = {}
            newer = [
                name
                for name in {*there, *self._known}
                if self._is_theirs(name, there.get(name), here.get(name))
            ]
            gone = [name for name in newer if name not in there]
            new = [name for name in newer if name in there]
            if new:
                for name in filter(_is_manifest, newer):  # not whole from here on
                    self._local(name).unlink(missing_ok=True)
            fetch = partial(self._fetch, there)
            self._in_order(new, fetch, gone, self._forget, f"from {self.url}")
            return Carried(len(new), sum(there[name].size for name in new), len(gone))

    def push(self) -> Carried:
        """Brings what was made, changed or removed here since the last :meth:`pull` to the URL.

        The folder may be written meanwhile: of a store that is being filled a state is sent that
        another machine can go on with. What is newer there stays, and comes with the next pull.

        Raises:
            InputError: a file was changed on both sides, see :meth:`pull`; nothing was sent. Of
                reports, manifests and single files the one here wins.
        """
        self.place.parent.mkdir(parents=True, exist_ok=True)
        with self._held(), tempfile.TemporaryDirectory(prefix=".", dir=self.place.parent) as stage:
            # First: all that they name is there when the items are looked for.
            late = dict(self._staged(Path(stage)))
            items = {n: path for n, path in self._here().items() if _rank(n) < _REPORTS}
            there, here = self.remote.files(), items | late
            if not there:
                self._known = {}
            new = [n for n in here if self._is_ours(n, there.get(n), here[n])]
            gone = [n for n in there if n not in here and self._was(n, there[n])]
            if new:
                for name in filter(_is_manifest, [n for n in (*new, *gone) if n in there]):
                    self._drop(name)  # not whole from here on
            send = partial(self._send, here)
            self._in_order(new, send, gone, self._drop, f"to {self.url}")
            notes = [self._known[name].note for name in new if name in self._known]
            return Carried(len(new), sum(note.size for note in notes if note), len(gone))

    def _in_order(
        self,
        new: Iterable[str],
        copy: Callable[[str], object],
        gone: Iterable[str],
        remove: Callable[[str], object],
        what: str,
    ) -> None:
        """Copies and removes, so that no moment shows a report of what is not there."""
        ranked = sorted(new, key=lambda name: (_rank(name), name))
        with ThreadPoolExecutor(AT_ONCE) as pool:
            for rank in range(_MANIFESTS + 1):
                if rank == _MANIFESTS:  # which count all that is in the folder
                    for name in gone:
                        remove(name)
                these = [name for name in ranked if _rank(name) == rank]
                with Progress(len(these), what, hidden=len(these) < AT_ONCE) as bar:
                    for first in range(0, len(these), AT_ONCE):
                        for _ in pool.map(copy, these[first : first + AT_ONCE]):
                            bar.update()

    def _is_theirs(self, name: str, there: Remote | None, here: Path | None) -> bool:
        """Whether the one there is to be taken; settles what was changed on both sides."""
        known = self._known.get(name, _Known())
        if there is None:  # somebody removed it
            return known.tag is not None and here is not None and is_unchanged(here, known.note)
        if here is None:
            return True
        if there.tag == known.tag:
            return False
        if known.note is not None and is_unchanged(here, known.note):
            return True
        return self._settle(name, there, here) is None

    def _is_ours(self, name: str, there: Remote | None, here: Path) -> bool:
        """Whether the one here is to be sent."""
        known = self._known.get(name, _Known())
        changed = known.note is None or not is_unchanged(here, known.note)
        if there is None:
            return changed or known.tag is None
        if there.tag == known.tag or not changed:
            return changed
        return self._settle(name, there, here) is not False

    def _was(self, name: str, there: Remote) -> bool:
        """Whether a file there is one that was here."""
        return self._known.get(name, _Known()).tag == there.tag

    def _settle(self, name: str, there: Remote, here: Path) -> bool | None:
        """Of a file that seems changed on both sides, by the bytes of both.

        True: only here. False: they are the same. None: on both, and whoever copies wins.
        """
        known = self._known.get(name, _Known())
        mine = note_of(here)
        notes = [note for note in (mine, known.note, known.sent) if note is not None]
        if any(note.size == there.size for note in notes):
            digest = self._digest(name)
            if mine is not None and digest == mine.digest:
                self._note(name, _Known(there.tag, mine))
                return False
            if digest in [note.digest for note in notes]:  # a push was killed behind it
                self._note(name, known._replace(tag=there.tag))
                return True
        if _rank(name) >= _REPORTS or not name or self._local(name).with_suffix("").is_dir():
            return None  # the last: a file beside the folder that it tells of, say what it took
        raise InputError(
            self._local(name), "changed",
            f"it differs from {self.remote.path_of(name)} at {self.url}, and both were changed "
            "since they were the same; remove the one that is not wanted, and start again",
        )  # fmt: skip

    def _fetch(self, there: Mapping[str, Remote], name: str) -> None:
        path = self._local(name)
        self.remote.fetch(name, path)
        self._note(name, _Known(there[name].tag, note_of(path)))

    def _send(self, here: Mapping[str, Path], name: str) -> None:
        path = here[name]
        note = note_of(path)
        if note is None:  # the run has removed it meanwhile
            return
        self._note(name, self._known.get(name, _Known())._replace(sent=note))
        tag = self.remote.send(path, name)
        if tag is not None:
            self._note(name, _Known(tag, note))

    def _drop(self, name: str) -> None:
        """Removes a file there."""
        self.remote.remove(name)
        self._note(name, None)

    def _forget(self, name: str) -> None:
        """Removes a file here."""
        self._local(name).unlink(missing_ok=True)
        self._note(name, None)

    def _digest(self, name: str) -> str:
        """Of the bytes there."""
        with tempfile.TemporaryDirectory(prefix=".", dir=self.place.parent) as folder:
            copy = Path(folder) / "copy"
            self.remote.fetch(name, copy)
            return digest_of(copy)

    def _here(self) -> dict[str, Path]:
        """All files of the working copy."""
        if self.place.is_file():
            return {"": self.place}
        found = {}
        for root, folders, names in os.walk(self.place):
            folders[:] = [name for name in folders if not name.startswith(".")]
            for path in (Path(root, name) for name in names if not name.startswith(".")):
                found[path.relative_to(self.place).as_posix()] = path
        return found

    def _staged(self, folder: Path) -> Iterator[tuple[str, Path]]:
        """Copies of reports and manifests as they are now, while others may write them."""
        late = [(name, path) for name, path in self._here().items() if _rank(name) >= _REPORTS]
        for number, (name, path) in enumerate(late):
            copy = folder / str(number)
            try:
                shutil.copy2(path, copy)
            except FileNotFoundError:
                continue
            yield name, copy

    def _local(self, name: str) -> Path:
        return self.place / name if name else self.place

    def _note(self, name: str, known: _Known | None) -> None:
        """Adds to the notes, and to their file at once."""
        with self._noting:
            if known is None:
                self._known.pop(name, None)
            else:
                self._known[name] = known
            with self._journal.open("a", encoding="utf-8") as journal:
                journal.write(json.dumps([name, known]) + "\n")

    @contextmanager
    def _held(self) -> Iterator[None]:
        """Keeps other processes of this machine from the copy, and reads and packs the notes."""
        lock = self.place.with_name(f".{self.place.name}.mirror.lock")
        with held(lock, f"the working copy of {self.url}"):
            self._known = dict(_read(self._journal))
            yield
            lines = (json.dumps([name, known]) for name, known in sorted(self._known.items()))
            write_lines(self._journal, lines)


_SEALS, _ITEMS, _REPORTS, _MANIFESTS = range(4)


def _rank(name: str) -> int:
    """When a file is copied: a seal admits the file before, a manifest counts all the others."""
    path = PurePosixPath(name)
    if path.name in (MANIFEST, POINTER):
        return _MANIFESTS
    if path.match(REPORTS) or path.name == OTHERS:
        return _REPORTS
    return _SEALS if path.name.endswith(SEAL) else _ITEMS


def _is_manifest(name: str) -> bool:
    return PurePosixPath(name).name == MANIFEST


def _read(journal: Path) -> Iterator[tuple[str, _Known]]:
    """The notes of a file; the last line of a name counts, and damaged lines are passed over."""
    known: dict[str, _Known] = {}
    lines = journal.read_text("utf-8", errors="replace").splitlines() if journal.exists() else []
    for line in lines:
        try:
            name, content = json.loads(line)
            if content is None:
                known.pop(name, None)
                continue
            tag, *notes = content
            here, sent = (None if note is None else FileNote(*note) for note in notes)
            known[name] = _Known(tag, here, sent)
        except (ValueError, TypeError, RecursionError):
            continue
    yield from known.items()
