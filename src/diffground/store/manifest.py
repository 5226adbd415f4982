"""Made folders: which configuration made one, whether it is whole, and making it only when needed.

A folder of generated files is trusted only through its manifest, which is written last and in one
step. A process that is killed at any moment leaves a folder without a valid manifest, which is
made again, or a finished one, which is kept. What others put into such a folder is never thrown
away::

    manifest = make_folder(folder, config, lambda partial: render_world(partial, config))

Files are made in a hidden sibling folder that takes the final name when it is whole, so readers
never see half a dataset, and files of an earlier configuration never mix with the new ones.
Code that changes what a configuration produces has a number in the configuration, under ``"code"``
(:mod:`diffground.provenance`): the code itself is not hashed.
"""

from __future__ import annotations

import hashlib
import json
import logging
import os
import shutil
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping
from pathlib import Path, PurePosixPath
from typing import Any

from filelock import FileLock
from pydantic import BaseModel, ValidationError

from diffground.config import Config
from diffground.errors import InputError
from diffground.io.files import write_whole
from diffground.provenance import Made, plain, say_why

MANIFEST = "manifest.json"
FORMAT = 1  # of the manifest itself
MODEL_FILES = ("*.safetensors", "*.bin", "*.json", "*.txt")  # weights, configs, vocabularies

log = logging.getLogger(__name__)

Configuration = BaseModel | Mapping[str, Any]


class Manifest(Config):
    """What a made folder is: the configuration behind it, and what lies in it."""

    version: int
    config_hash: str  # of `config`, 16 hexadecimal digits
    config: dict[str, Any]
    files: dict[str, int]  # folder, relative to the manifest's ("." for its own) -> files in it
    size_bytes: int
    digest: str  # of the configuration and every file's path and size, 16 hexadecimal digits
    contents: str | None = None  # of every file's path and bytes, the same; None: not taken
    made: Made = Made()  # by which commits the files were made, and when the last of them was


def config_hash(config: Configuration) -> str:
    """16 hexadecimal digits, the same for equal configurations in whatever order of keys."""
    return _hash(json.dumps(_plain(config), sort_keys=True, ensure_ascii=True))


def read_manifest(folder: str | Path) -> Manifest | None:
    """The folder's manifest; None if there is none that can be read, so it must be made again."""
    try:
        return Manifest.model_validate_json((Path(folder) / MANIFEST).read_bytes())
    except (FileNotFoundError, NotADirectoryError, ValidationError):
        return None


def is_valid(folder: str | Path, config: Configuration | None = None) -> bool:
    """True if the folder was finished for ``config`` and still holds the same files.

    Files are compared by path and size, without reading them. ``config=None`` accepts any
    configuration.
    """
    folder = Path(folder)
    manifest = read_manifest(folder)
    if manifest is None or manifest.version != FORMAT:
        return False
    if config is not None and manifest.config_hash != config_hash(config):
        return False
    return manifest.digest == _listing(folder, manifest.config_hash)[2]


def write_manifest(
    folder: str | Path,
    config: Configuration,
    *,
    contents: bool = False,
    commit: str | None = None,
) -> Manifest:
    """Declares that ``folder`` is finished: counts its files and writes the manifest in one step.

    For folders that are filled in place, such as checkpoints; call :func:`remove_manifest` before
    the first change. Hidden files are not counted. ``contents`` reads every byte and notes its
    hash. ``commit`` names those that made the files, if it was not all done just now.
    """
    folder = Path(folder)
    hashed = config_hash(config)
    files, size, digest = _listing(folder, hashed)
    manifest = Manifest(
        version=FORMAT,
        config_hash=hashed,
        config=_plain(config),
        files=files,
        size_bytes=size,
        digest=digest,
        contents=_contents(folder, _files(folder)) if contents else None,
        made=Made.now(commit),
    )
    text = manifest.model_dump_json(indent=2) + "\n"
    path = folder / MANIFEST
    write_whole(path, lambda part: part.write_text(text, encoding="utf-8"), durable=True)
    return manifest


def remove_manifest(folder: str | Path) -> None:
    """Declares that ``folder`` is being changed: it counts as made only at its next manifest."""
    (Path(folder) / MANIFEST).unlink(missing_ok=True)


def make_folder(
    folder: str | Path, config: Configuration, make: Callable[[Path], object]
) -> Manifest:
    """Makes ``folder`` unless a valid one is there, and returns its manifest.

    ``make(partial)`` fills an empty folder, which then takes the place of ``folder``. Two processes
    that want the same folder wait for each other, and the second finds it made. One whose bytes are
    no longer those that were written is made again. Files of the old folder that ``make`` does not
    make, and that no manifest accounts for, are moved beside it, and the log says where.

    Raises:
        InputError: ``folder`` has no manifest that can be read, and files that ``make`` does not
            make. It may be somebody's own dataset, so it is not touched. Or it is a file, or the
            system lets nothing be made there.
    """
    folder = Path(folder)
    if folder.exists() and not folder.is_dir():
        raise InputError(folder, "folder", "a file is in its place; choose another folder")
    try:
        folder.parent.mkdir(parents=True, exist_ok=True)
    except OSError as error:
        reason = f"cannot be made ({error.strerror}); choose another folder"
        raise InputError(folder, "folder", reason) from error
    partial, old = (folder.parent / f".{folder.name}.{state}" for state in ("partial", "old"))
    with FileLock(folder.parent / f".{folder.name}.lock"):
        manifest = read_manifest(folder)
        if manifest is not None and is_valid(folder, config):
            if manifest.contents in (None, _contents(folder, _files(folder))):
                return manifest
            log.warning("%s was damaged since it was made, and is made again", folder)
        elif manifest is not None:
            say_why(folder, _plain(config), [folder / MANIFEST], "config")
        # A finished folder that was killed just before it took its name needs no second making.
        if not is_valid(partial, config):
            shutil.rmtree(partial, ignore_errors=True)
            partial.mkdir()
            make(partial)
            write_manifest(partial, config, contents=True)
        if manifest is None:
            _refuse_others(folder, partial)
        elif not is_valid(folder):
            _move_strangers(folder, partial)
        # Two renames, so that no moment leaves a half-removed folder under the real name.
        shutil.rmtree(old, ignore_errors=True)
        if folder.exists():
            folder.rename(old)
        partial.rename(folder)
        shutil.rmtree(old, ignore_errors=True)
        manifest = read_manifest(folder)
        assert manifest is not None
        return manifest


def _refuse_others(folder: Path, made: Path) -> None:
    """Raises InputError if a folder without a manifest has other files than those just made."""
    sizes = _sizes(made)
    other = [name for name, size in _sizes(folder).items() if sizes.get(name) != size]
    if other:
        shutil.rmtree(made, ignore_errors=True)
        raise InputError(
            folder,
            MANIFEST,
            f"there is none that can be read, and {len(other)} files ({other[0]}) were not made "
            "here, so the folder is left alone; move it away, remove it if it was made by an "
            "earlier run, or choose another folder",
        )


def _move_strangers(folder: Path, made: Path) -> None:
    """Moves the files that were not made again beside the folder that is about to be replaced."""
    ours = _sizes(made)
    strangers = [name for name in _sizes(folder) if name not in ours]
    if not strangers:
        return
    number = 1
    while (aside := folder.with_name(f"{folder.name}.kept-{number}")).exists():
        number += 1
    for name in strangers:
        (aside / name).parent.mkdir(parents=True, exist_ok=True)
        (folder / name).rename(aside / name)
    log.warning(
        "%s is made again; %d files in it that are not of it (%s) are now in %s",
        folder, len(strangers), strangers[0], aside,
    )  # fmt: skip


def fingerprint(folder: str | Path, patterns: tuple[str, ...] = MODEL_FILES) -> str:
    """16 hexadecimal digits of the *contents* of a folder's matching files, at any depth.

    Independent of where the folder lies. Reads every byte: a few seconds for a full-size model.
    """
    folder = Path(folder)
    return _contents(folder, sorted({path for name in patterns for path in folder.rglob(name)}))


def _plain(config: Configuration) -> dict[str, Any]:
    return plain(config.model_dump(mode="json") if isinstance(config, BaseModel) else config)


def _files(folder: Path) -> Iterator[Path]:
    """The folder's files, sorted, without the manifest and without hidden ones."""
    for root, folders, names in os.walk(folder):
        folders[:] = sorted(name for name in folders if not name.startswith("."))
        for name in sorted(names):
            if not name.startswith(".") and Path(root, name) != folder / MANIFEST:
                yield Path(root, name)


def _sizes(folder: Path) -> dict[str, int]:
    """The size of each file, by its path in the folder."""
    return {path.relative_to(folder).as_posix(): path.stat().st_size for path in _files(folder)}


def _contents(folder: Path, paths: Iterable[Path]) -> str:
    """A hash of the path below ``folder``, and the bytes, of each file."""
    digest = hashlib.blake2b(digest_size=8)
    for path in paths:
        with path.open("rb") as stream:
            content = hashlib.file_digest(stream, "blake2b").hexdigest()
        digest.update(f"{path.relative_to(folder).as_posix()}\0{content}\n".encode())
    return digest.hexdigest()


def _listing(folder: Path, salt: str) -> tuple[dict[str, int], int, str]:
    """Files per folder, bytes in all, and a digest of ``salt`` and every path and size."""
    sizes = _sizes(folder)
    counts = Counter(PurePosixPath(name).parent.as_posix() for name in sizes)
    lines = "".join(f"{name}\0{size}\n" for name, size in sizes.items())
    return dict(counts), sum(sizes.values()), _hash(salt + lines)


def _hash(text: str) -> str:
    return hashlib.blake2b(text.encode(), digest_size=8).hexdigest()
