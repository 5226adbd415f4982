"""Entries at a URL: their working copies are brought up to date, and what was made is sent."""

from __future__ import annotations

import logging
from collections.abc import Callable, Iterable
from threading import Event, Thread
from typing import Any

from kedro.config import MissingConfigException
from kedro.framework.context import KedroContext
from kedro.framework.hooks import hook_impl
from kedro.io import DataCatalog
from kedro.pipeline import Pipeline
from kedro.pipeline.node import Node

from diffground.adapters.datasets import FolderDataset, TargetFolderDataset
from diffground.adapters.hooks.results import is_first_process
from diffground.adapters.remote import RemoteConfig, mirrors, once, root_of, told
from diffground.errors import InputError
from diffground.store.mirror import Mirror

log = logging.getLogger(__name__)


class RemoteHook:
    """Pulls what a run reads before its first node, and pushes what a node made when it is saved.

    A folder that a node fills is also pushed every ``push_every`` seconds of conf/base/remote.yml,
    and when the node fails: whoever gives the same command on another machine goes on from there.
    Of several processes the first one pushes. A run without URLs does none of it.
    """

    def __init__(self) -> None:
        self._every: float | None = None
        self._mirrors: dict[str, Mirror] = {}
        self._folders: set[str] = set()
        self._filled: set[str] = set()
        self._saved: set[str] = set()
        self._sender: _Sender | None = None

    @hook_impl
    def after_context_created(self, context: KedroContext) -> None:
        """Reads the configuration."""
        try:
            content = dict(context.config_loader["remote"])
        except MissingConfigException:  # then no entry is at a URL: the catalog was refused
            return
        self._every = RemoteConfig.model_validate(content).push_every

    @hook_impl
    def before_pipeline_run(self, pipeline: Pipeline, catalog: DataCatalog) -> None:
        """Raises InputError for the first URL that does not answer, then pulls what is read."""
        entries = {name: catalog.get(name) for name in sorted(pipeline.datasets())}
        self._mirrors, self._saved = mirrors(entries), set()
        self._filled = {n for n, e in entries.items() if isinstance(e, TargetFolderDataset)}
        made = {n for n, entry in entries.items() if isinstance(entry, FolderDataset)}
        self._folders = self._filled | made
        for mirror in {root_of(mirror.url): mirror for mirror in self._mirrors.values()}.values():
            mirror.remote.reach()
        inputs = pipeline.inputs()
        for mirror in once(m for name, m in self._mirrors.items() if name in inputs):
            log.info("%s", told(mirror.pull(), "from", mirror.url))

    @hook_impl
    def before_node_run(self, node: Node) -> None:
        """Begins to send what the node makes while it runs."""
        filled = self._of(name for name in node.inputs if name in self._filled)
        if filled and self._every is not None and is_first_process():
            self._sender = _Sender(filled, self._every)

    @hook_impl
    def after_node_run(self) -> None:
        """The rest is sent when it is saved."""
        self._stop()

    @hook_impl
    def after_dataset_saved(self, dataset_name: str, node: Node) -> None:
        """Sends what the node filled and saved, when all of it is: folders, then what tells of
        them.
        """
        self._saved.add(dataset_name)
        if not self._saved >= {*node.outputs} or not is_first_process():
            return
        names = [*(n for n in node.inputs if n in self._filled), *node.outputs]
        for mirror in self._of(sorted(names, key=lambda name: name not in self._folders)):
            log.info("%s", told(mirror.push(), "to", mirror.url))

    @hook_impl
    def on_node_error(self, node: Node) -> None:
        """Sends what there is."""
        self._stop()
        if is_first_process():
            for mirror in self._of(name for name in node.inputs if name in self._filled):
                _try(mirror.push)

    def _of(self, names: Iterable[str]) -> list[Mirror]:
        return once(self._mirrors[name] for name in names if name in self._mirrors)

    def _stop(self) -> None:
        sender, self._sender = self._sender, None
        if sender is not None:
            sender.stop()


class _Sender(Thread):
    """Pushes working copies again and again, until it is told to stop."""

    def __init__(self, copies: list[Mirror], every: float) -> None:
        super().__init__(daemon=True)
        self._copies, self._every, self._ended = copies, every, Event()
        self.start()

    def run(self) -> None:
        while not self._ended.wait(self._every):
            for mirror in self._copies:
                _try(mirror.push)

    def stop(self) -> None:
        """Lets a push that has begun come to its end."""
        self._ended.set()
        self.join()


def _try(push: Callable[[], Any]) -> None:
    """A push that another one follows, or that must not hide why the node failed."""
    try:
        push()
    except InputError as error:
        log.warning("what was made so far was not sent: %s", error)
