"""Work that is made here and finished by a pool of processes, never far ahead of it.

One process makes the work of item after item (the diffusion model's, say on a GPU), others finish
it (the CRF). Making waits while ``look_ahead`` items are unfinished, so memory depends on that
number and not on the number of items. A worker leaves with the process that started it, even if
that one is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from typing import TypeVar

from diffground.errors import InputError, Problem

Work = TypeVar("Work")


def outcomes(
    items: Iterable[str],
    make: Callable[[str], Work],
    finish: Callable[[str, Work], None],
    *,
    workers: int,
    look_ahead: int | None = None,
) -> Iterator[Problem | None]:
    """One outcome for every item, in the order in which they end: None, or why it failed.

    Args:
        items: names.
        make: called in this process, in order. An :class:`InputError` ends this item only.
        finish: called in a worker, so it and the work are pickled; it writes its result itself.
        workers: processes; 0 finishes each item here before the next is made.
        look_ahead: unfinished items at any time, the one being made included; None = 2 x workers.

    Any other exception of either ends the iteration.
    """
    if not workers:
        for item in items:
            work = _made(make, item)
            yield work if isinstance(work, Problem) else _finished(finish, item, work)
        return
    bound = 2 * workers if look_ahead is None else look_ahead
    # Not forked: the models' threads and devices do not survive that.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    flight: set[Future[Problem | None]] = set()
    try:
        for item in items:
            while len(flight) >= bound:
                done, flight = wait(flight, return_when=FIRST_COMPLETED)
                for future in done:
                    yield future.result()
            work = _made(make, item)
            if isinstance(work, Problem):
                yield work
            else:
                flight.add(executor.submit(_finished, finish, item, work))
            del work  # or it would live until the next one is made
        for future in as_completed(flight):
            yield future.result()
    finally:
        executor.shutdown(cancel_futures=True)


def _made(make: Callable[[str], Work], item: str) -> Work | Problem:
    try:
        return make(item)
    except InputError as error:
        return Problem.of(item, error)


def _finished(finish: Callable[[str, Work], None], item: str, work: Work) -> Problem | None:
    # As a value: an InputError cannot be pickled with its fields.
    try:
        finish(item, work)
    except InputError as error:
        return Problem.of(item, error)
    return None


def _start_worker() -> None:
    """Ties a worker to its parent: left alone, it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
