"""A store that the processes of one run fill together: each a part of what is this run's."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import TypeVar

from diffground.errors import InputError, Problem, ProblemReport
from diffground.provenance import Recipe
from diffground.store.config import ShardConfig, WorkConfig
from diffground.store.items import Item, Summary, fill
from diffground.store.reports import About
from diffground.store.spent import spent

Work = TypeVar("Work")


def fill_together(
    folder: Path,
    recipe: Recipe,
    items: Sequence[Item],
    make: Callable[[str], Work],
    finish: Callable[[str, Work], About | None],
    *,
    what: str,
    work: WorkConfig | None = None,
    ready: Callable[[], object] | None = None,
) -> Summary:
    """What :func:`~diffground.store.items.fill` does, shared out among this run's processes.

    All of them call it, and wait for the last. The summary is of all of them; its seconds are
    theirs together. ``make`` meets no other process: what it trains, it trains
    :func:`~diffground.training.processes.alone`.
    """
    # Takes seconds, and settings of stores are read without a store being filled.
    from diffground.training.processes import gathered, processes

    state, work = processes(), WorkConfig() if work is None else work
    if state.num_processes > 1 and work.executor == "ray":
        reason = "Ray starts processes itself: run one process, without a launcher, or take plain"
        raise InputError("parameters", "work.executor", reason)
    if state.num_processes == 1:
        return fill(folder, recipe, items, make, finish, what=what, work=work, ready=ready)
    shard = ShardConfig(
        index=work.shard.index + work.shard.count * state.process_index,
        count=work.shard.count * state.num_processes,
    )
    mine = fill(
        folder, recipe, items, make, finish,
        what=what,
        work=work.model_copy(update={"shard": shard}),
        ready=ready,
        hidden=not state.is_main_process,
    )  # fmt: skip
    parts = gathered(mine)
    total = sum(part["items"] for part in parts)
    report = ProblemReport(
        total, [Problem(**row) for part in parts for row in part["skipped"]["problems"]]
    )
    place = {item.id: index for index, item in enumerate(items)}
    report.problems.sort(key=lambda problem: place[problem.item])
    return Summary(
        folder=folder.name,
        complete=any(part["complete"] for part in parts),  # the last one sees that all is there
        items=total,
        made=sum(part["made"] for part in parts),
        kept=sum(part["kept"] for part in parts),
        seconds=round(sum(part["seconds"] for part in parts), 2),
        skipped=report.to_dict(),
    )


def spent_together(folder: Path, summary: Summary) -> dict[str, float]:
    """What :func:`~diffground.store.spent.spent` notes, once for all processes."""
    from diffground.training.processes import gathered, processes

    found = gathered(spent(folder, summary) if processes().is_main_process else {})
    return found[0]
