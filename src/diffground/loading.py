"""Loading models without the bars of the libraries that read them."""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import contextmanager

from diffusers.utils import logging as of_diffusers
from transformers.utils import logging as of_transformers


@contextmanager
def without_bars() -> Iterator[None]:
    """diffusers and transformers show no progress in the block: they load in a moment, and where
    nobody watches they write a line per update. Afterwards they do as they did before.
    """
    chatty = [
        library for library in (of_diffusers, of_transformers) if library.is_progress_bar_enabled()
    ]
    for library in chatty:
        library.disable_progress_bar()
    try:
        yield
    finally:
        for library in chatty:
            library.enable_progress_bar()
