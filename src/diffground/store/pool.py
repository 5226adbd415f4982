"""Work that is made here and finished by a pool of processes, never far ahead of it.

One process makes the work of item after item (the diffusion model's, say on a GPU), others finish
it (the CRF). Making waits while twice as many items as workers are unfinished, so memory depends on
their number and not on the number of items. A worker leaves with the process that started it, even
if that one is killed.
"""

from __future__ import annotations

import multiprocessing
import os
import threading
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import FIRST_COMPLETED, Future, ProcessPoolExecutor, as_completed, wait
from typing import TypeVar

from diffground.errors import InputError, WriteError

Item = TypeVar("Item")
Work = TypeVar("Work")
Done = TypeVar("Done")


def outcomes(
    items: Iterable[Item],
    make: Callable[[Item], Work],
    finish: Callable[[Item, Work], Done],
    *,
    workers: int,
) -> Iterator[tuple[Item, Done | InputError]]:
    """Every item with what ``finish`` returned or why ``make`` failed, in the order they end.

    Args:
        make: called in this process, in order. An :class:`InputError` ends this item only,
            but a :class:`WriteError` all.
        finish: called in a worker, so it, its arguments and its result are pickled; it writes what
            it makes itself.
        workers: processes, with 2 unfinished items each at any time, the one being made included; 0
            finishes each item here before the next is made.

    Any other exception, and any of ``finish``, ends the iteration.
    """
    if not workers:
        for item in items:
            work = attempted(make, item)
            yield item, work if isinstance(work, InputError) else finish(item, work)
        return
    # Not forked: the models' threads and devices do not survive that.
    context = multiprocessing.get_context("spawn")
    executor = ProcessPoolExecutor(workers, mp_context=context, initializer=_start_worker)
    flight: dict[Future[Done], Item] = {}
    try:
        for item in items:
            full = len(flight) >= 2 * workers
            for future in wait(flight, None if full else 0, FIRST_COMPLETED).done:
                yield flight.pop(future), future.result()
            work = attempted(make, item)
            if isinstance(work, InputError):
                yield item, work
            else:
                flight[executor.submit(finish, item, work)] = item
            del work  # or it would live until the next one is made
        for future in as_completed(flight):
            yield flight[future], future.result()
    finally:
        executor.shutdown(cancel_futures=True)


def attempted(make: Callable[[Item], Work], item: Item) -> Work | InputError:
    """What ``make`` gives, or the error that is the item's own; others are raised."""
    try:
        return make(item)
    except WriteError:
        raise
    except InputError as error:
        return error


def _start_worker() -> None:
    """Ties a worker to its parent: left alone, it would wait for work forever."""
    parent = multiprocessing.parent_process()
    assert parent is not None

    def leave_with_parent() -> None:
        parent.join()
        os._exit(1)

    threading.Thread(target=leave_with_parent, daemon=True).start()
