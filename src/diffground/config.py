"""The base class of every configuration: frozen, and strict about unknown keys."""

from pydantic import BaseModel, ConfigDict


class Config(BaseModel):
    """A frozen pydantic model that rejects unknown keys, so that a typo fails before the run."""

    model_config = ConfigDict(frozen=True, extra="forbid", protected_namespaces=())
