"""Which samples each process sees in each accumulation round of each step, and what they count."""

from __future__ import annotations

import itertools
from collections.abc import Callable, Iterator, Sequence
from typing import Any, cast

import torch
from torch import Tensor
from torch.utils.data import DataLoader, Dataset

from diffground.errors import InputError
from diffground.seeds import generator
from diffground.training.config import TrainConfig
from diffground.training.processes import gathered, processes


def stream(
    length: int, config: TrainConfig, rank: int, world: int, first: int
) -> Iterator[Sequence[int]]:
    """A process's share of an endless, seeded, epoch-wise shuffled sequence of batches."""
    share = config.batch_size // (world * config.accumulation)
    epoch, order = -1, torch.empty(0)
    for position in itertools.count(first * config.batch_size, share * world):
        chosen = []
        for offset in range(share * world):
            now, index = divmod(position + offset, length)
            if now != epoch:
                epoch = now
                order = torch.randperm(length, generator=generator(config.seed, "epoch", now))
            if offset % world == rank:
                chosen.append(int(order[index]))
        yield chosen


class Batches:
    """The batches of a training from step ``first`` on.

    Raises:
        InputError: the batch cannot be shared out, or the dataset is smaller than it.
    """

    def __init__(
        self,
        dataset: Dataset[Any],
        config: TrainConfig,
        collate: Callable[[list[Any]], Any] | None,
        first: int,
    ) -> None:
        self.dataset, self.config = dataset, config
        self.length = len(cast(Any, dataset))
        if not self.length:
            raise InputError("training", "dataset", "it holds no sample that can be used")
        parts = processes().num_processes * config.accumulation
        if config.batch_size % parts:
            reason = f"{config.batch_size} is no multiple of {parts} (processes x accumulation)"
            raise InputError("training", "batch_size", reason)
        if config.batch_size > self.length:
            reason = f"{config.batch_size} is more than the {self.length} samples that there are"
            raise InputError("training", "batch_size", reason)
        loader = DataLoader(
            dataset,
            batch_sampler=cast(Any, self._stream(first)),
            collate_fn=collate,
            num_workers=config.num_workers,
            persistent_workers=config.num_workers > 0,
            # A GPU fetches it from there while it computes; workers have the next two at hand.
            pin_memory=processes().device.type == "cuda",
        )
        self._loaded = iter(loader)

    def rounds(self) -> list[Any]:
        """This process's batches of the next step."""
        return [next(self._loaded) for _ in range(self.config.accumulation)]

    def names(self, step: int) -> list[list[str]]:
        """The names of the samples in this process's batches of ``step``, by round."""
        name = getattr(self.dataset, "name", "number {}".format)
        rounds = itertools.islice(self._stream(step), self.config.accumulation)
        return [[name(index) for index in chosen] for chosen in rounds]

    def _stream(self, first: int) -> Iterator[Sequence[int]]:
        state = processes()
        return stream(self.length, self.config, state.process_index, state.num_processes, first)


def shares(rounds: Sequence[Any], weight: Callable[[Any], float] | None) -> list[float]:
    """What the loss of each of this process's rounds is multiplied by; gradients are summed.

    The processes' gradients are averaged, so it is a round's weight over that of all rounds of a
    process, on average over the processes.
    """
    if weight is None:
        return [1.0 / len(rounds)] * len(rounds)
    mine = [float(weight(batch)) for batch in rounds]
    total = sum(map(sum, gathered(mine))) / processes().num_processes
    return [value / total if total else 0.0 for value in mine]


def drawn(draw: Callable[[int], Tensor], count: int) -> Tensor:
    """Random numbers (count, ...) for this process's samples of a round.

    They are those that one process draws for all samples, ``draw(number of them)``: within a step
    of :func:`diffground.training.loop.train` all processes draw alike. A batch may have groups of
    samples of equal size one behind the other, say photos and class pictures.
    """
    state = processes()
    return draw(count * state.num_processes)[state.process_index :: state.num_processes]
