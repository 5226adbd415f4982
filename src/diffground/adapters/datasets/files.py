"""The libraries' datasets of single files, written whole, and of memory, with a page for Kedro-Viz.

Each is Kedro's of the same name; ours are
:meth:`~diffground.adapters.datasets.previews.Previewed.preview`, and that a file takes its name
only when it is whole: whoever reads a report while another run writes it gets the old one or the
new one, and a full disk leaves the old one.
"""

from __future__ import annotations

import copy
from functools import partial
from importlib import import_module
from pathlib import Path
from typing import Any

from fsspec.implementations.memory import MemoryFileSystem
from kedro.io import DatasetError
from kedro.io import MemoryDataset as KedroMemoryDataset
from kedro_datasets import json, matplotlib, pillow, text
from pydantic import TypeAdapter, ValidationError

from diffground.adapters.datasets.previews import Previewed
from diffground.errors import InputError, shortened
from diffground.io.files import write_whole
from diffground.io.images import open_image


class Whole:
    """Makes a file dataset of Kedro write what it saves in one step, see :func:`write_whole`, and
    say of a file that it cannot read which one that is.

    Raises:
        DatasetError: with an InputError that names the file, the cause and the remedy; of a file
            that is not there, or that the system denies, with the system's error.
    """

    def load(self) -> Any:
        """What Kedro's dataset reads."""
        try:
            return super().load()  # type: ignore[misc]
        except DatasetError as error:
            cause = error.__cause__
            if cause is None or isinstance(cause, InputError | OSError):
                raise
            reason = f"cannot be read ({shortened(cause)}); run the pipeline again that makes it"
            file = str(self._filepath)  # type: ignore[attr-defined]
            raise InputError(file, "content", reason) from cause

    def save(self, data: Any) -> None:
        """Lets Kedro's dataset write into memory, and writes that."""
        memory = MemoryFileSystem(skip_instance_cache=True)
        memory.store = {}  # its own: else all of them share one
        double = copy.copy(self)
        double._fs = memory  # type: ignore[attr-defined]
        super(Whole, double).save(data)  # type: ignore[misc]
        for name, file in memory.store.items():
            write_whole(name, partial(Path.write_bytes, data=file.getvalue()))


class JSONDataset(Whole, Previewed, json.JSONDataset):
    """JSON."""


class RecordsDataset(JSONDataset):
    """Dataclasses as JSON, of the type that ``of`` names: ``package.module.Type``."""

    def __init__(self, *, filepath: str, of: str, metadata: dict[str, Any] | None = None) -> None:
        super().__init__(filepath=filepath, save_args={"indent": None}, metadata=metadata)
        self._of = of

    def save(self, data: Any) -> None:
        """Writes them."""
        super().save(self._type().dump_python(data, mode="json"))

    def load(self) -> Any:
        """Reads them."""
        content = super().load()
        try:
            return self._type().validate_python(content)
        except ValidationError as error:
            reason = f"these are none of {self._of}; run the pipeline again that makes them"
            raise InputError(str(self._filepath), "content", reason) from error

    def _type(self) -> TypeAdapter[Any]:
        module, _, name = self._of.rpartition(".")
        return TypeAdapter(getattr(import_module(module), name))


class TextDataset(Whole, Previewed, text.TextDataset):
    """Text, say Markdown."""


class ImageDataset(Whole, Previewed, pillow.ImageDataset):
    """A picture, as PIL has it."""

    def load(self) -> Any:
        """Opens it by the rules for all pictures."""
        return open_image(str(self._filepath))


class MatplotlibDataset(Whole, Previewed, matplotlib.MatplotlibDataset):
    """A figure of matplotlib, which is read as the picture that was kept of it."""

    def load(self) -> Any:
        """Opens it by the rules for all pictures."""
        return open_image(str(self._filepath))


class Optional:
    """Makes a dataset give None where the pipeline that writes it has not run here yet.

    Only a node that is tagged "report" may be given it so: the others are told before a run what is
    missing (:class:`~diffground.adapters.hooks.InputsHook`).
    """

    optional = True

    def load(self) -> Any:
        """What is there, or None."""
        return super().load() if self.exists() else None  # type: ignore[misc, attr-defined]


class OptionalJSONDataset(Optional, JSONDataset):
    """JSON of results, if there are any."""


class OptionalImageDataset(Optional, ImageDataset):
    """A picture, if it was made."""


class OptionalMatplotlibDataset(Optional, MatplotlibDataset):
    """A figure, if it was drawn."""


class MemoryDataset(Previewed, KedroMemoryDataset):
    """What is handed on within a run."""
