"""Randomness that depends on what is drawn, never on the order in which it is drawn."""

from __future__ import annotations

import hashlib

import torch


def derive_seed(run_seed: int, item: str | int, draw: str | int = 0) -> int:
    """A seed in ``[0, 2**63)`` for one draw of one item of one run."""
    digest = hashlib.blake2b(f"{run_seed}/{item}/{draw}".encode(), digest_size=8).digest()
    return int.from_bytes(digest, "little") >> 1


def generator(run_seed: int, item: str | int, draw: str | int = 0) -> torch.Generator:
    """A CPU generator seeded by :func:`derive_seed`: the same numbers on every device."""
    return torch.Generator("cpu").manual_seed(derive_seed(run_seed, item, draw))
