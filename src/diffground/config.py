"""The base class of every configuration: frozen, and strict about unknown keys."""

from __future__ import annotations

from collections.abc import Iterator
from typing import Annotated, Any

from pydantic import BaseModel, ConfigDict, StringConstraints


class Config(BaseModel):
    """A frozen pydantic model that rejects unknown keys, so that a typo fails before the run."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())


_RUNS_HERE = "a device of the machine that runs"
_NAMES = r"cpu|mps|(cuda|xpu)(:\d+)?"

#: A field that names a device of torch: "cpu", "cuda", "cuda:1", "mps". The name is checked when
#: the configuration is made; whether this machine has it, before a run (:func:`devices`).
Device = Annotated[str, StringConstraints(pattern=rf"^({_NAMES})$"), _RUNS_HERE]
#: The same, or "auto": the GPU if there is one.
AutoDevice = Annotated[str, StringConstraints(pattern=rf"^(auto|{_NAMES})$"), _RUNS_HERE]


def devices(config: Any, path: str) -> Iterator[tuple[str, str]]:
    """The :data:`Device` fields of a configuration and of those in it, as ``(path, name)``."""
    if not isinstance(config, BaseModel):
        return
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if _RUNS_HERE in field.metadata:
            yield f"{path}.{name}", value
        yield from devices(value, f"{path}.{name}")
