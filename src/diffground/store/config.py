"""Who makes the items of a store: shards and processes."""

from __future__ import annotations

from typing import Annotated, Self

from pydantic import NonNegativeInt, PositiveInt, model_validator

from diffground.config import NOT_IN_KEY, Config


class ShardConfig(Config):
    """The part of the items that this run makes: every ``count``-th one."""

    index: NonNegativeInt = 0
    count: PositiveInt = 1

    @model_validator(mode="after")
    def _one_of_them(self) -> Self:
        if self.index >= self.count:
            raise ValueError(f"index {self.index} is not in 0 … {self.count - 1}")
        return self

    @property
    def report(self) -> str:
        """The name of the file in which the part's items are noted."""
        return f"shard-{self.index:03d}-of-{self.count:03d}.jsonl"


class WorkConfig(Config):
    """Who makes the items. What they are does not depend on it."""

    shard: ShardConfig = ShardConfig()
    # Processes that finish what this one makes; 0 = this one, while nothing else is made.
    workers: Annotated[NonNegativeInt, NOT_IN_KEY] = 0
