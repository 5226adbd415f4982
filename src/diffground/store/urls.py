"""What lies at a URL, by fsspec: listed, fetched, sent and removed, file by file."""

from __future__ import annotations

import shutil
from collections.abc import Iterator, Mapping
from contextlib import contextmanager
from datetime import datetime
from functools import partial
from pathlib import Path
from typing import Any, NamedTuple

from fsspec.core import url_to_fs
from fsspec.implementations.local import LocalFileSystem

from diffground.errors import ACCESS, InputError
from diffground.io.files import write_whole
from diffground.io.paths import inside

# What a server says of a file's content or version, the best first.
_TAGS = (
    "ETag", "etag", "md5Hash", "content_md5", "generation", "checksum", "LastModified",
    "last_modified", "updated", "mtime", "modified", "created",
)  # fmt: skip


class Remote(NamedTuple):
    """A file at the URL."""

    tag: str
    size: int


class Place:
    """A folder or a file at a URL. Its files have names below it; that of a single one is empty.

    Raises (every method):
        InputError: the URL is of a kind that is not installed, or it does not answer, or a name
            there would lead out of the folder.
    """

    def __init__(self, url: str) -> None:
        self.url = url.rstrip("/")
        with _asking(self.url):
            self._fs, path = url_to_fs(self.url, use_listings_cache=False)
        self._path = str(path).rstrip("/")

    def reach(self) -> None:
        """Raises InputError unless the server answers, and has the URL's bucket or first folder."""
        with _asking(self.url):
            try:
                self._fs.info(self._path)
            except FileNotFoundError:  # made by the first push, if there is a bucket
                path = self._path
                try:
                    self._fs.info("/" * path.startswith("/") + path.lstrip("/").partition("/")[0])
                except PermissionError:
                    pass  # some may see their own folder of a bucket alone

    def files(self) -> dict[str, Remote]:
        """All that is there, by name, but for what is hidden."""
        with _asking(self.url):
            try:
                found = self._fs.find(self._path, detail=True)
                if self._path in found:  # it is a file, of which few servers' lists say more
                    found = {self._path: self._fs.info(self._path)}
            except FileNotFoundError:
                return {}
        names = {}
        for path, about in found.items():
            if not f"{path}/".startswith(f"{self._path}/"):
                continue  # a neighbour whose name only begins so
            name = path.removeprefix(self._path).removeprefix("/")
            if about["type"] != "file" or name.endswith("/") or _is_hidden(name):
                continue  # folders of object stores are empty files
            if name and inside(Path(), name, self.url, "name").as_posix() != name:
                raise InputError(self.url, "name", f"{name!r} can be no file's name here")
            names[name] = Remote(_tag(about), int(about["size"]))
        return names

    def fetch(self, name: str, path: Path) -> None:
        """Writes a file's bytes to ``path``, whole."""
        with _asking(self.url):
            write_whole(path, lambda part: self._fs.get_file(self.path_of(name), str(part)))

    def send(self, path: Path, name: str) -> str | None:
        """Puts a file there, and returns its tag; None if ``path`` is gone meanwhile."""
        target = self.path_of(name)
        with _asking(self.url):
            try:
                if isinstance(self._fs, LocalFileSystem):  # which would write into the old file
                    write_whole(target, partial(shutil.copyfile, path))
                else:
                    self._fs.put_file(str(path), target)
            except FileNotFoundError:
                if path.exists():  # then it is the bucket that is missing
                    raise
                return None
            return _tag(self._fs.info(target))

    def remove(self, name: str) -> None:
        """Removes a file, if it is there still."""
        with _asking(self.url):
            try:
                self._fs.rm_file(self.path_of(name))
            except FileNotFoundError:
                pass

    def path_of(self, name: str) -> str:
        """A file's path, as its server has it."""
        return f"{self._path}/{name}" if name else self._path


@contextmanager
def _asking(url: str) -> Iterator[None]:
    """Names the URL where its server, or whoever speaks to it, would not answer."""
    try:
        yield
    except InputError:
        raise
    except ImportError as error:
        reason = f"{error}; for s3:// `pip install -c constraints.txt s3fs`"
        raise InputError(url, "package", reason) from error
    except Exception as error:  # each library has its own
        said = " ".join(str(error).split()) or type(error).__name__
        reason = (
            f"it cannot be reached ({said}); see the name, the network, and the credentials and "
            "the endpoint in the environment, and start again"
        )
        raise InputError(url, ACCESS, reason) from error


def _is_hidden(name: str) -> bool:
    return any(part.startswith(".") and part.strip(".") for part in name.split("/"))


def _tag(about: Mapping[str, Any]) -> str:
    """What tells a file from an earlier one of its name, as its server says it."""
    value = next((about[key] for key in _TAGS if about.get(key) is not None), "")
    if isinstance(value, datetime):  # memory's listing has seconds
        value = value.timestamp()
    return f"{about['size']} {value}"
