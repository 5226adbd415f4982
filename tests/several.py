"""Several processes of one run, on this machine's processor."""

from __future__ import annotations

import os
import socket
from collections.abc import Callable
from typing import Any

import torch

from diffground.training.processes import processes


def run_together(work: Callable[..., None], *args: Any, world: int = 2) -> None:
    """Runs ``work(rank, *args)`` in each of ``world`` processes that know each other."""
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    torch.multiprocessing.spawn(_one, (world, port, work, args), world)


def _one(rank: int, world: int, port: int, work: Callable[..., None], args: tuple) -> None:
    os.environ |= {
        "RANK": str(rank), "LOCAL_RANK": str(rank), "WORLD_SIZE": str(world),
        "MASTER_ADDR": "127.0.0.1", "MASTER_PORT": str(port), "ACCELERATE_USE_CPU": "true",
    }  # fmt: skip
    torch.set_num_threads(1)
    assert processes().num_processes == world
    work(rank, *args)
    torch.distributed.destroy_process_group()
