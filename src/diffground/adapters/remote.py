"""Catalog entries whose place is a URL: nodes and datasets get a working copy's.

A URL is seen in one place, where the catalog is read (:func:`localised`): the entry's ``filepath``
becomes that of its working copy, and its ``metadata`` says what ``remote`` it is of. Readers and
stores know local folders alone. :class:`~diffground.adapters.hooks.RemoteHook` pulls and pushes.
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path
from typing import Any

from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project
from pydantic import PositiveFloat

from diffground.adapters.datasets import FolderDataset, TargetFolderDataset
from diffground.config import Config
from diffground.errors import InputError
from diffground.io.paths import inside
from diffground.store.mirror import Carried, Mirror

REMOTE = "remote"  # of an entry's metadata: the URL that its place is the working copy of
_URL = re.compile(r"([a-z][a-z0-9+.-]*)://(.*)")


class RemoteConfig(Config):
    """conf/<env>/remote.yml."""

    cache: Path  # the folder of working copies, relative to the project
    push_every: PositiveFloat | None  # seconds; None: when a step has ended


def is_url(place: object) -> bool:
    """Whether a place is none of this machine's file system."""
    return isinstance(place, str) and _URL.match(place) is not None


def localised(catalog: Mapping[str, Any], cache: Callable[[], Path]) -> dict[str, Any]:
    """A catalog's configuration with working copies in place of URLs.

    Raises:
        InputError: a URL names no folder or file, or would lead out of the cache.
    """
    found = dict(catalog)
    for name, entry in catalog.items():
        url = entry.get("filepath") if isinstance(entry, Mapping) else None
        if isinstance(url, str) and is_url(url):
            place = working_copy(url, cache(), name)
            metadata = {**(entry.get("metadata") or {}), REMOTE: url}
            found[name] = {**entry, "filepath": place.as_posix(), "metadata": metadata}
    return found


def working_copy(url: str, cache: Path, entry: str) -> Path:
    """Where the working copy of a URL lies.

    Raises:
        InputError: the URL names no folder or file, or would lead out of the cache.
    """
    match = _URL.fullmatch(url.rstrip("/"))
    path = match.group(2).lstrip("/") if match else ""
    if match is None or not path or "::" in url:
        reason = f"{url} is no place of an entry; such are s3://bucket/folder, file:///mnt/folder"
        raise InputError("catalog", entry, reason)
    return inside(cache, f"{match.group(1)}/{path}", "catalog", entry)


def root_of(url: str) -> str:
    """The bucket of a URL, or the first folder: ``s3://bucket``, ``file:///mnt``."""
    found = re.match(r"[^:]+://+[^/]+", url)
    return found.group() if found else url


def url_of(entry: Any) -> str | None:
    """The URL of a catalog entry; None if it is a place of this machine."""
    return (getattr(entry, "metadata", None) or {}).get(REMOTE)


def mirrors(entries: Mapping[str, Any]) -> dict[str, Mirror]:
    """The working copies of those entries that are at a URL, by entry; of one URL the same one."""
    by_url: dict[str, Mirror] = {}
    found = {}
    for name, entry in entries.items():
        url = url_of(entry)
        if url is not None:
            found[name] = by_url.setdefault(url, Mirror(url, _place(entry)))
    return found


def _place(entry: Any) -> Path:
    if isinstance(entry, FolderDataset):
        return entry.root
    return entry.folder if isinstance(entry, TargetFolderDataset) else Path(str(entry._filepath))


def once(mirrors: Iterable[Mirror]) -> list[Mirror]:
    """Each working copy once, in the order given."""
    return list({mirror.url: mirror for mirror in mirrors}.values())


def told(carried: Carried, way: str, url: str) -> str:
    """What a pull or push did, in words."""
    removed = f", {carried.removed:,} removed" if carried.removed else ""
    return f"{way} {url}: {carried.files:,} files, {carried.bytes / 1e6:.1f} MB{removed}"


def sync(
    project: Path, env: str | None, names: Iterable[str], say: Callable[[str], object]
) -> None:
    """Pulls, then pushes, the entries of these names; all that are at a URL if there are none.

    Raises:
        InputError: there is no such entry, or it is at no URL; and what
            :class:`~diffground.store.mirror.Mirror` raises.
    """
    bootstrap_project(project)
    catalog = KedroSession.create(project, env=env).load_context().catalog
    there = mirrors({name: catalog.get(name) for name in catalog.keys()})  # noqa: SIM118
    asked = list(names) or list(there)
    for name in asked:
        if name not in there:
            known = ", ".join(there) or "none"
            raise InputError("catalog", name, f"no such entry is at a URL; there are {known}")
    for mirror in once(there[name] for name in asked):
        say(told(mirror.pull(), "from", mirror.url))
        say(told(mirror.push(), "to", mirror.url))
