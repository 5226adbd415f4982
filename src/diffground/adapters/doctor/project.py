"""What the catalog names: the models and datasets of an environment, by who needs them."""

from __future__ import annotations

import os
from collections import defaultdict
from collections.abc import Iterator, Mapping, Sequence
from pathlib import Path
from typing import Any

from kedro.framework.project import pipelines
from kedro.framework.session import KedroSession
from kedro.framework.startup import bootstrap_project

from diffground.adapters.config_loader import DEFAULT_ENV
from diffground.adapters.datasets import FolderDataset
from diffground.adapters.doctor import folders, machine
from diffground.adapters.doctor.findings import Finding, shown
from diffground.adapters.hooks.results import layer
from diffground.adapters.hooks.runs import RunLogConfig
from diffground.adapters.remote import RemoteConfig, is_url, root_of, url_of
from diffground.errors import InputError
from diffground.store.manifest import MANIFEST
from diffground.store.urls import Place
from diffground.world.config import WorldConfig
from diffground.world.datasets import DATASETS
from diffground.world.own_data import check_dataset

Sections = dict[str, list[Finding]]


def examine(project: Path, env: str | None, *, deep: bool) -> Sections:
    """The whole report of a checkout, by section.

    Args:
        env: of the configuration, None: the default.
        deep: opens every picture and mask, too.
    """
    bootstrap_project(project)
    context = KedroSession.create(project, env=env).load_context()
    catalog, loader = context.catalog, context.config_loader
    parameters = loader["parameters"]
    log = RunLogConfig.model_validate(dict(loader["mlflow"]))
    cache = RemoteConfig.model_validate(dict(loader["remote"])).cache
    data = loader["globals"]["data"]
    world = WorldConfig.model_validate(parameters["world"])
    scale = "mini" if world.make else "paper"
    uri = os.environ.get("MLFLOW_TRACKING_URI") or log.tracking_uri
    entries = {name: catalog.get(name) for name in catalog.keys()}  # noqa: SIM118
    return {
        "Packages": list(machine.packages(project / "constraints.txt")),
        "Machine": [
            *machine.accelerators(),
            machine.disk(project / (cache if is_url(data) else data), scale),
            machine.run_log(uri, project),
            *_remote(entries),
        ],
        f"Models (--env {env or DEFAULT_ENV})": list(_models(entries)),
        f"Datasets (--env {env or DEFAULT_ENV})": list(_datasets(entries, world, deep=deep)),
    }


def _remote(entries: Mapping[str, Any]) -> Iterator[Finding]:
    """Every bucket, or other root of URLs, that entries are at: does it answer?"""
    names: dict[str, list[str]] = defaultdict(list)
    urls: dict[str, str] = {}
    for name, entry in sorted(entries.items()):
        if url := url_of(entry):
            names[root_of(url)].append(name)
            urls[root_of(url)] = url
    for root, there in names.items():
        what = f"{root}, for {', '.join(there[:3])}{' and others' * (len(there) > 3)}"
        try:
            Place(urls[root]).reach()
            yield Finding("ok", what, "answers")
        except InputError as error:
            reason, _, remedy = error.reason.rpartition("; ")
            yield Finding("wrong", what, f"{error.field}: {reason}", remedy)


def _unfetched(entry: Any, name: str, what: str) -> Finding | None:
    """What there is to say of a place at a URL that this machine has no working copy of."""
    url = url_of(entry)
    if url is None or entry.folder.exists():
        return None
    remedy = f"nothing to do: the run that reads it fetches it; or `diffground sync {name}`"
    return Finding("note", what, f"{url}: no working copy yet", remedy)


def _models(entries: Mapping[str, Any]) -> Iterator[Finding]:
    """Every model that pipelines read and that nothing here trains; each folder once."""
    names: dict[Path, list[str]] = defaultdict(list)
    for name, entry in sorted(entries.items()):
        if layer(entry) == "pretrained":
            names[Path(entry.folder)].append(name)
    for place, same in names.items():
        what = f"{', '.join(same)}, for {_users(same)}"
        needed = [name for name in same if isinstance(entries[name], FolderDataset)]
        if unfetched := _unfetched(entries[same[0]], same[0], what):
            yield unfetched
            continue
        try:
            for name in needed:  # others may be missing
                entries[name].check()
        except InputError as error:
            yield Finding.of(f"{', '.join(needed)}, for {_users(needed)}", error)
            continue
        if place.exists():
            yield folders.model(place, what)
        else:
            remedy = "fetch it, or name the folder that you have, if a run is to read it"
            yield Finding("note", what, f"{shown(place)}: not there", remedy)


def _datasets(entries: Mapping[str, Any], world: WorldConfig, *, deep: bool) -> Iterator[Finding]:
    """Every dataset: is it there, is it all of it, and what the doctor of its kind says."""
    for name, (field, _, _) in DATASETS.items():
        entry = entries[name]
        folder, what = entry.folder, f"{name}, for {_users([name])}"
        if unfetched := _unfetched(entry, name, what):
            yield unfetched
            continue
        if world.make and not folder.is_dir():
            remedy = (
                "nothing to do: the run that needs it makes it; or `kedro run --pipelines world`"
            )
            yield Finding("note", what, f"{shown(folder)}: not made yet", remedy)
            continue
        try:
            if not (folder / MANIFEST).exists():  # somebody's own: the counts say if it is whole
                check_dataset(folder, field, world)
            entry.check()
            yield from _whole(folder, name, deep=deep)
        except InputError as error:
            yield Finding.of(what, error)


def _whole(folder: Path, name: str, *, deep: bool) -> Iterator[Finding]:
    if name == "coco":
        for split in ("train2017", "val2017") if deep else ("val2017",):
            yield folders.coco(folder, split, deep=deep)[1]
    elif name == "mug19":
        yield folders.mug19(folder, deep=deep)
    else:
        yield from folders.labelled(folder, deep=deep)


def _users(entries: Sequence[str]) -> str:
    """The pipelines that read one of these entries."""
    read = {
        name: {data for node in whole.nodes for data in node.inputs}
        for name, whole in sorted(dict(pipelines).items())
    }
    names = [n for n, data in read.items() if data & {*entries} and n != "__default__"]
    return ", ".join(names) or "no pipeline"
