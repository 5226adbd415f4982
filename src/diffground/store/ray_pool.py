"""The pool of :mod:`diffground.store.pool` as Ray runs it, on one machine or many.

Actors make, each with a frozen model of its own; tasks finish what they made (the CRF) and write.
The process that asks keeps the books: it hands out items, never far ahead, and writes the reports.
What is made goes from actor to task through Ray's object store, not through it. ::

    items -> actors: read, frozen model -> object store -> tasks: CRF, write -> reports

An actor or task that dies is started again, and what it had in hand is made again. Without the
address of a cluster Ray runs on this machine alone, and listens to it alone.
"""

from __future__ import annotations

import logging
import os
from collections.abc import Callable, Iterable, Iterator
from importlib.util import find_spec
from typing import Any, Final, Protocol, TypeVar

from diffground.errors import ACCESS, InputError
from diffground.store.config import RayConfig
from diffground.store.pool import attempted

RETRIES: Final = 2  # of an item whose worker died; then it is left to a later run
LOCAL: Final = "127.0.0.1"
_AHEAD: Final = 2  # items a worker has in hand, so that it need not wait for the next


class Named(Protocol):
    """An item that says what it is called."""

    @property
    def id(self) -> str:
        """Its name."""


Item = TypeVar("Item", bound=Named)
Work = TypeVar("Work")
Done = TypeVar("Done")


def outcomes(
    items: Iterable[Item],
    make: Callable[[Item], Work],
    finish: Callable[[Item, Work], Done],
    *,
    ready: Callable[[], object] | None,
    workers: int,
    config: RayConfig,
) -> Iterator[tuple[Item, Done | InputError]]:
    """What :func:`diffground.store.pool.outcomes` gives, by Ray's processes.

    Args:
        make, finish, ready: are pickled together, so what they share they share there too; models
            are loaded there, by ``ready`` before the first item.
        workers: tasks that finish at once; 0 finishes in the actor.

    An item whose worker died :data:`RETRIES` times more is one that may pass. Any other exception
    of theirs ends the iteration, as itself.

    Raises:
        InputError: Ray is not installed or does not start.
    """
    ray = _started(config)
    crew = _Crew(ray, make, finish, ready, workers, config)
    try:
        for item in items:
            while crew.is_full:
                yield from crew.settled()
            crew.take(item)
        while crew.is_busy:
            yield from crew.settled()
    finally:
        crew.leave()


class _DiedError(InputError):
    """The process that had an item in hand died, each time that it was begun again."""


class _Crew:
    """The actors and tasks of one store, and what they have in hand."""

    def __init__(
        self, ray: Any, make: Any, finish: Any, ready: Any, workers: int, config: RayConfig
    ) -> None:
        import torch

        self.ray, self.workers = ray, workers
        # As one: what they share they share there too. Kept, as an actor that starts again asks for
        # it anew. Tasks have `finish` alone, which is small: what makes knows of all items.
        self.parts, self.finish = ray.put((make, finish, ready)), ray.put(finish)
        # Numbers may depend on how many threads there are: as many as here.
        maker = ray.remote(_Maker).options(
            num_cpus=0,  # tasks take the processors: actors that took all would starve them
            num_gpus=config.gpus,
            max_restarts=-1,
            max_task_retries=RETRIES,
            scheduling_strategy="SPREAD",
        )
        threads = torch.get_num_threads()
        self.actors = [maker.remote(self.parts, threads) for _ in range(config.models)]
        self.finisher = ray.remote(_finish).options(num_cpus=1, max_retries=RETRIES)
        self.threads = threads
        self.load = [0] * len(self.actors)
        self.making: dict[Any, tuple[Any, int, Any]] = {}
        self.finishing: dict[Any, Any] = {}
        self.behind: set[Any] = set()  # of those in hand: they stood behind one that was to blame

    @property
    def is_full(self) -> bool:
        """Whether nobody can take another item."""
        waiting = len(self.finishing) >= _AHEAD * self.workers > 0
        return waiting or min(self.load) >= _AHEAD

    @property
    def is_busy(self) -> bool:
        """Whether anything is in hand."""
        return bool(self.making or self.finishing)

    def take(self, item: Any) -> None:
        """Hands an item to the actor with the least to do."""
        index = self.load.index(min(self.load))
        self.load[index] += 1
        made = self.actors[index].make.options(num_returns=2).remote(item, not self.workers)
        self.making[made[0]] = (item, index, made[1])

    def settled(self) -> Iterator[tuple[Any, Any]]:
        """Waits for one of them; gives its item if nothing more is to be done with it."""
        (ref,), _ = self.ray.wait([*self.making, *self.finishing], num_returns=1)
        if ref in self.finishing:
            item = self.finishing.pop(ref)
            yield item, self._got(ref, item)
            return
        item, index, work = self.making[ref]
        in_hand = [other for other, (_, at, _) in self.making.items() if at == index]
        del self.making[ref]
        self.load[index] -= 1
        problem = self._got(ref, item)
        # Who waits behind an item that ends its actor is lost with it each time, and not to blame.
        behind = ref in self.behind or ref != in_hand[0]
        self.behind.discard(ref)
        if isinstance(problem, _DiedError) and behind:
            self.take(item)
        elif problem is not None:
            if isinstance(problem, _DiedError):
                self.behind.update(in_hand[1:])
            yield item, problem
        elif self.workers:
            finishing = self.finisher.remote(self.finish, self.threads, item, work)
            self.finishing[finishing] = item
        else:
            yield item, self._got(work, item)

    def _got(self, ref: Any, item: Any) -> Any:
        errors = self.ray.exceptions
        try:
            return self.ray.get(ref)
        except errors.RayTaskError as error:
            raise error.cause from error
        except (
            errors.RayActorError, errors.WorkerCrashedError, errors.OutOfMemoryError,
            errors.ObjectLostError,
        ) as error:  # fmt: skip
            reason = f"its worker died {RETRIES + 1} times, of memory perhaps: {error}"
            return _DiedError(item.id, ACCESS, reason.splitlines()[0])

    def leave(self) -> None:
        """Ends the actors; what they have in hand is lost."""
        for actor in self.actors:
            self.ray.kill(actor)


class _Maker:
    """An actor: makes items one after the other, with what ``ready`` loaded."""

    def __init__(self, parts: tuple[Any, Any, Any], threads: int) -> None:
        import torch

        torch.set_num_threads(threads)
        self.make_item, self.finish, self.ready = parts

    def make(self, item: Any, finish: bool) -> tuple[InputError | None, Any]:
        """Why the item cannot be made, or what was made of it; or what finishing it gave."""
        if self.ready is not None:
            self.ready()
            self.ready = None
        work = attempted(self.make_item, item)
        if isinstance(work, InputError):
            return work, None
        return None, self.finish(item, work) if finish else work


def _finish(finish: Callable[[Any, Any], Any], threads: int, item: Any, work: Any) -> Any:
    import torch

    torch.set_num_threads(threads)
    return finish(item, work)


def _started(config: RayConfig) -> Any:
    """Ray's module, connected; of its own accord it runs until this process ends."""
    if find_spec("ray") is None:
        reason = "ray is not installed: `pip install -c constraints.txt ray`, or take plain"
        raise InputError("parameters", "work.executor", reason)
    os.environ["RAY_USAGE_STATS_ENABLED"] = "0"  # nobody is told of a run
    if config.address is None:
        # Read when Ray is imported: its own machine's address is then 127.0.0.1, and it listens to
        # no other.
        os.environ["RAY_ENABLE_WINDOWS_OR_OSX_CLUSTER"] = "0"
    import ray

    if ray.is_initialized():
        return ray
    options: dict[str, Any] = {"log_to_driver": False, "logging_level": logging.ERROR}
    if config.address is None:
        options |= {"_node_ip_address": LOCAL, "include_dashboard": False}
    try:
        ray.init(address=config.address or "local", **options)
    except Exception as error:  # noqa: BLE001  # of whatever kind Ray has for it
        reason = f"Ray does not start ({error}); take plain, or see its logs in /tmp/ray"
        raise InputError("parameters", "work.ray.address", reason) from error
    if config.address is None and ray.util.get_node_ip_address() != LOCAL:
        ray.shutdown()
        reason = (
            "ray was imported before and would listen to other machines; import diffground first"
        )
        raise InputError("parameters", "work.ray.address", reason)
    return ray
