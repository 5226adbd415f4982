"""The faults, each as a trial: a job in a home of its own, what befalls it, and what follows."""

from __future__ import annotations

import shutil
import signal
import sqlite3
import subprocess
import tempfile
from collections.abc import Callable, Iterator
from contextlib import closing, contextmanager
from dataclasses import dataclass, replace
from functools import cache, partial
from pathlib import Path
from random import Random

import jobs
from children import Child, Ending
from outcomes import EXTRA, differences, files

from diffground.adapters.run_journal import settle
from diffground.io.files import is_sound
from diffground.store.reports import is_intact, read_notes

SAME, NAMED, DIFFERENCE = "same result", "named error", "DIFFERENCE"
REMEDIES = 4  # errors in a row that a user would put up with
MiB = 1 << 20


@dataclass(frozen=True)
class Line:
    """A line of the log.

    Attributes:
        outcome: the result was the same; or an error named what was wrong, and after its remedy
            the result was the same; or neither.
        kills: processes that were killed on the way.
        what: which moment, file or limit it was.
        errors: what users were told, or tracebacks.
    """

    kind: str
    job: str
    trial: int
    outcome: str
    kills: int = 0
    what: str = ""
    errors: tuple[str, ...] = ()
    differences: tuple[str, ...] = ()


@dataclass
class Trial:
    """A job in a home of its own.

    Attributes:
        stock: a home that nothing ran in, ``whole`` one of an uninterrupted run, which took
            ``seconds`` of the processor.
    """

    job: str
    number: int
    stock: Path
    whole: Path
    seconds: float
    home: Path
    random: Random

    def __post_init__(self) -> None:
        self.note = self.home.with_suffix(".json")

    def start(self, largest: int | None = None, twin: str = "") -> Child:
        """Begins the job, or goes on with it."""
        note = self.note.with_suffix(f"{twin}.json")
        return Child(partial(jobs.play, self.job, self.home), note, largest=largest)

    def finish(self) -> Ending:
        """Runs it to its end."""
        return self.start().wait()

    def until(self, most: float) -> bool:
        """Runs it and kills it at a random moment; False if it had ended before."""
        child = self.start()
        child.kill_after(self.random.uniform(0.01, most) * self.seconds)
        return child.wait().code == -signal.SIGKILL

    def judged(
        self,
        kind: str,
        end: Ending,
        *,
        kills: int = 0,
        what: str = "",
        mend: Callable[[], object] | None = None,
        flipped: Path | None = None,
        restored: bool = False,
    ) -> Line:
        """Follows the remedies of named errors until it runs through, and compares.

        Args:
            mend: ends the fault; without one it is the file that is named that is restored or
                removed.
            flipped: a damaged file, which may stay so where whoever reads it is told.
            restored: of given files; what came of the damaged ones may lie beside the result.
        """
        errors: list[str] = []
        while end.code and end.named and len(errors) < REMEDIES:
            errors.append(self._text(end))
            if mend is not None:
                mend()
            elif not self._obey(end, again=len(errors) > 1):
                break
            end = self.finish()
        if end.code:
            outcome, found = DIFFERENCE, ["no result"]
            errors += [self._text(end)] if not end.named else []
        else:
            found = differences(self.whole, self.home)
            if flipped is not None and is_told(flipped):
                name = f"{flipped.relative_to(self.home)}: "
                found = [one for one in found if not one.startswith(name)]
            if restored:
                found = [one for one in found if not one.endswith(EXTRA)]
            outcome = DIFFERENCE if found else NAMED if errors else SAME
        return Line(kind, self.job, self.number, outcome, kills, what, tuple(errors), tuple(found))

    def _text(self, end: Ending) -> str:
        return ("" if end.named else "traceback: ") + end.error.replace(str(self.home), "HOME")

    def _obey(self, end: Ending, *, again: bool) -> bool:
        """Restores what is named if it was given, removes it if it was made; whether it could."""
        named = Path(end.file)
        if not end.file or not named.is_relative_to(self.home / "data"):
            return False
        given = self.stock / named.relative_to(self.home)
        if given.is_file():
            shutil.copy2(given, named)
        elif given.is_dir():
            shutil.copytree(given, named, dirs_exist_ok=True)
        elif named.is_dir() or again:
            shutil.rmtree(named if named.is_dir() else named.parent)
        else:
            named.unlink(missing_ok=True)
        return True


def killed(trial: Trial, most: int = 5) -> Iterator[Line]:
    """Killed again and again, by signal 9 from outside, each time at a random moment."""
    jobs.copied(trial.stock, trial.home)
    count = 0
    while count < most and trial.until(0.6):
        count += 1
    yield trial.judged("kill", trial.finish(), kills=count)


def full_disk(trial: Trial) -> Iterator[Line]:
    """The disk is full at a random moment; then it is larger."""
    given, made = size_of(trial.stock), size_of(trial.whole)
    room = int(given + trial.random.uniform(0.05, 0.9) * (made - given))
    with small_disk(trial.home, room) as enlarge:
        jobs.copied(trial.stock, trial.home / "home")
        trial.home /= "home"
        yield trial.judged("full disk", trial.finish(), what=f"{room / MiB:.2f} MiB", mend=enlarge)


def too_large(trial: Trial) -> Iterator[Line]:
    """The system refuses files above a size; then it does not."""
    jobs.copied(trial.stock, trial.home)
    sizes = sorted({path.stat().st_size for path in made_files(trial.whole, trial.stock)})
    large = sizes[len(sizes) // 2 :]  # else it is always the first file
    largest = int(trial.random.choice(large) * trial.random.uniform(0.3, 0.99))
    end = trial.start(largest).wait()
    yield trial.judged("file limit", end, what=f"{largest} bytes", mend=lambda: None)


def read_only(trial: Trial) -> Iterator[Line]:
    """After a kill somebody took the right to write away from a folder; then gave it back."""
    jobs.copied(trial.stock, trial.home)
    killed_before = trial.until(0.9)
    folders = [path for path in (trial.home / "data").rglob("*") if path.is_dir()]
    given = {path.relative_to(trial.stock) for path in trial.stock.rglob("*")}
    made = [path for path in folders if path.relative_to(trial.home) not in given]
    folder = trial.random.choice(sorted(made) or [trial.home / "data"])
    folder.mkdir(exist_ok=True)  # a kill at once may have left none
    what = str(folder.relative_to(trial.home))
    with closed(folder) as opened:
        yield trial.judged(
            "read-only folder", trial.finish(), kills=int(killed_before), what=what, mend=opened
        )


def twins(trial: Trial) -> Iterator[Line]:
    """Two at once; of every other pair one is killed."""
    jobs.copied(trial.stock, trial.home)
    one, other = trial.start(), trial.start(twin=".twin")
    count = 0
    if trial.random.random() < 0.5:
        count = int(one.kill_after(trial.random.uniform(0.05, 0.9) * trial.seconds))
    ends = [one.wait(), other.wait()]
    ends = [end for end in ends if end.code != -9]
    failed = [end for end in ends if end.code]
    end = failed[0] if failed else trial.finish() if count else ends[0]
    yield trial.judged("twins", end, kills=count, mend=lambda: None)


def locked_log(trial: Trial) -> Iterator[Line]:
    """Another program holds the run log's database all the time; then the log is complete."""
    jobs.copied(trial.stock, trial.home)
    with closing(sqlite3.connect(trial.home / "mlflow.db")) as db:
        db.execute("BEGIN EXCLUSIVE")
        end = trial.finish()
        db.rollback()
    note = trial.home.with_suffix(".settle.json")
    settled = Child(partial(settle, jobs.STORE, trial.home), note).wait()
    with closing(sqlite3.connect(trial.home / "mlflow.db")) as db:
        runs = db.execute("SELECT status FROM runs").fetchall()
    line = trial.judged("locked run log", end)
    if settled.code or runs != [("FINISHED",)]:
        lost = f"mlflow.db: {runs} {settled.error}"
        line = replace(line, outcome=DIFFERENCE, differences=(*line.differences, lost))
    yield line


def flipped(trial: Trial, most: int = 3) -> Iterator[Line]:
    """One bit of one file is another, half-way or when all is made; each kind as often."""
    jobs.copied(trial.stock, trial.home)
    halfway = trial.random.random() < 0.5
    count = int(trial.until(0.9)) if halfway else 0
    if not halfway:
        trial.finish()
    saved = trial.home.with_suffix(".saved")
    jobs.copied(trial.home, saved)
    for _ in range(most):
        shutil.rmtree(trial.home)
        jobs.copied(saved, trial.home)
        kinds: dict[str, list[Path]] = {}
        for path in files(trial.home):
            if path.stat().st_size:  # an empty file has no bit
                kinds.setdefault(kind_of(path, trial), []).append(path)
        kind = trial.random.choice(sorted(kinds))
        path = trial.random.choice(kinds[kind])
        bit = flip(path, trial.random)
        what = f"{path.relative_to(trial.home)}: bit {bit}"
        end = trial.finish()
        given = kind.startswith("given")
        if given and not end.code:
            # Nobody knows what a picture was before, and some files of a model are never read:
            # what matters is that it can be put back.
            shutil.copy2(trial.stock / path.relative_to(trial.home), path)
            end = trial.finish()
        yield trial.judged(
            f"flipped bit: {kind}", end, kills=count, what=what, flipped=path, restored=given
        )
        count = 0
    shutil.rmtree(saved)


FAULTS = (full_disk, too_large, read_only, twins, locked_log, flipped)


def kind_of(path: Path, trial: Trial) -> str:
    """What a file is, for the table."""
    name = path.relative_to(trial.home)
    if (trial.stock / name).exists():
        return "given model" if name.is_relative_to(jobs.MODELS) else "given data"
    kinds = {
        ".pt": "checkpoint", ".safetensors": "tensors", ".jsonl": "item report", ".json": "JSON",
        ".png": "image", ".jpg": "image", ".sha256": "seal", ".md": "text", ".txt": "text",
    }  # fmt: skip
    return kinds.get(path.suffix, "other")


def is_told(path: Path) -> bool:
    """Whether a file's seal, or the note of the store that it is in, says that it was damaged."""
    if is_sound(path) is False:
        return True
    stores = list(path.parents)[:3]  # an item's files may lie in folders of its store
    return any(
        str(path.relative_to(store)) in note.files and not is_intact(store, note)
        for store in stores
        for note in read_notes(store).values()
    )


def flip(path: Path, random: Random) -> int:
    """Turns one bit round; which one."""
    content = bytearray(path.read_bytes())
    bit = random.randrange(8 * len(content))
    content[bit // 8] ^= 1 << bit % 8
    path.write_bytes(content)
    return bit


def made_files(home: Path, stock: Path) -> list[Path]:
    """Those that a job made."""
    return [path for path in files(home) if not (stock / path.relative_to(home)).exists()]


def size_of(folder: Path) -> int:
    """Bytes of its files as a disk counts them, in pages."""
    sizes = (path.lstat().st_size for path in folder.rglob("*"))
    return sum(-(-size // 4096) * 4096 for size in sizes)


@contextmanager
def closed(folder: Path) -> Iterator[Callable[[], object]]:
    """Nobody may write to a folder until what is yielded is called."""
    if not can_mount():
        before = folder.stat().st_mode
        folder.chmod(0o555)
        try:
            yield partial(folder.chmod, before)
        finally:
            folder.chmod(before)
        return
    # The superuser may write wherever the system can.
    subprocess.run(["mount", "--bind", folder, folder], check=True)
    subprocess.run(["mount", "-o", "remount,bind,ro", folder], check=True)
    try:
        yield partial(subprocess.run, ["mount", "-o", "remount,bind,rw", folder], check=True)
    finally:
        subprocess.run(["umount", folder], check=True)


@contextmanager
def small_disk(place: Path, size: int) -> Iterator[Callable[[], None]]:
    """A disk of so many bytes at ``place``; what is yielded makes it larger."""
    place.mkdir()
    mount = ["mount", "-t", "tmpfs", "-o"]
    subprocess.run([*mount, f"size={size}", "none", place], check=True)
    try:
        yield partial(
            subprocess.run, ["mount", "-o", f"remount,size={1024 * MiB}", place], check=True
        )
    finally:
        subprocess.run(["umount", place], check=True)


@cache
def can_mount() -> bool:
    """Whether small disks can be made here, which takes root."""
    with tempfile.TemporaryDirectory() as folder:
        try:
            with small_disk(Path(folder) / "disk", MiB):
                return True
        except (OSError, subprocess.CalledProcessError):
            return False
