"""Who makes the items of a store: shards, processes, and who runs these."""

from __future__ import annotations

from typing import Annotated, Literal, Self

from pydantic import NonNegativeFloat, NonNegativeInt, PositiveInt, model_validator

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


class RayConfig(Config):
    """Which processes Ray is to run, see :mod:`diffground.store.ray_pool`."""

    # Of a cluster that runs, "auto" or "10.0.0.1:6379", whose machines share the data folder; null
    # = this machine.
    address: str | None = None
    models: PositiveInt = 1  # processes that hold a frozen model each
    # GPUs that each of them takes. 0.5: two share one, and one reads while the other computes.
    gpus: NonNegativeFloat = 0


class WorkConfig(Config):
    """Who makes the items. What they are does not depend on it."""

    shard: ShardConfig = ShardConfig()
    # plain: this process, and those that a launcher started with it; ray: processes of Ray
    executor: Annotated[Literal["plain", "ray"], NOT_IN_KEY] = "plain"
    ray: Annotated[RayConfig, NOT_IN_KEY] = RayConfig()
    # Processes that finish what is made; 0 = the one that made it, while it makes nothing else.
    workers: Annotated[NonNegativeInt, NOT_IN_KEY] = 0

    def unfinished(self) -> WorkConfig:
        """The same for what takes no time to finish: whoever makes an item writes it."""
        return self.model_copy(update={"workers": 0})
