"""What is asked of the frozen model: prompts and the classes in them, each with its own seed.

A prompt depends on the seed of the experiment, the set and its number alone: a longer set begins
with the same prompts.
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TypeVar

import torch

from diffground.errors import InputError, shortened
from diffground.papers.grounded.classes import ClassSplit
from diffground.papers.grounded.data_config import GroundingDataConfig, PromptConfig, SetConfig
from diffground.papers.grounded.templates import places
from diffground.phrases.alignment import Span
from diffground.seeds import derive_seed, generator

Entry = TypeVar("Entry")


@dataclass(frozen=True)
class Attempt:
    """A picture that is to be made, and what it is asked about."""

    id: str
    prompt: str
    names: tuple[str, ...]  # classes of the prompt that are asked for; without them it is rejected
    absent: tuple[str, ...]  # classes that are not in the prompt, asked for all the same
    seed: int  # of the noise

    def check(self) -> None:
        """Raises InputError if the prompt does not have the words of its classes, or has others."""
        for name in self.names:
            if not has_word(self.prompt, name):
                reason = f"the class word {name!r} is not in {shortened(self.prompt)}: add it, or "
                raise InputError(f"prompt {self.id}", "names", f"{reason}ask for other classes")
        for name in self.absent:
            if has_word(self.prompt, name):
                reason = f"{name!r} is in {shortened(self.prompt)}, and cannot be absent"
                raise InputError(f"prompt {self.id}", "absent", reason)


Planned = dict[str, list[Attempt]]  # set -> its attempts


def has_word(prompt: str, name: str) -> bool:
    """Whether a class is named in a prompt, as whole words and in whatever capitals."""
    return bool(word_spans(prompt, name))


def word_spans(prompt: str, name: str) -> list[Span]:
    """The characters (start, end) of every place where a prompt names a class."""
    pattern = rf"(?<!\w){re.escape(name)}(?!\w)"
    return [match.span() for match in re.finditer(pattern, prompt, re.IGNORECASE)]


def spans_of(prompt: str, names: Sequence[str]) -> dict[str, Span]:
    """Where a prompt names each of several classes first, without those that it does not name.

    Longer names come first: the dog of "a hot dog and a dog" is the second one.
    """
    found: dict[str, Span] = {}
    for name in sorted(names, key=len, reverse=True):
        for start, end in word_spans(prompt, name):
            if all(end <= other[0] or other[1] <= start for other in found.values()):
                found[name] = start, end
                break
    return dict(sorted(found.items(), key=lambda entry: entry[1]))


def planned(config: GroundingDataConfig) -> Planned:
    """The attempts of every set, ``<set>-00000`` and so on."""
    split = ClassSplit.of(config.prompts.split)
    return {
        name: list(_attempts(name, one, config.prompts, split, config.seed))
        for name, one in config.sets.items()
    }


def _attempts(
    name: str, one: SetConfig, prompts: PromptConfig, split: ClassSplit, seed: int
) -> Iterator[Attempt]:
    pools = {
        "seen": (split.seen, split.seen),
        "unseen": (split.unseen, split.unseen),
        "mixed": (split.seen, split.unseen),
    }
    first, second = pools[one.classes]
    if prompts.asked == "one":
        second = split.seen
    everything = tuple(dict.fromkeys((*first, *second)))
    for index in range(one.attempts):
        item = f"{name}-{index:05d}"
        draws = _Draws(seed, item)
        template = draws.one(prompts.texts, "template")
        in_turn = first[index % len(first)]
        lead = in_turn if one.draw == "each" else draws.one(first, "first class")
        classes = [lead]
        if places(template) == 2:
            others = [other for other in second if other != lead]
            classes.append(draws.one(others, "second class"))
            if draws.one((False, True), "order"):
                classes.reverse()
        absent = draws.several([c for c in everything if c not in classes], prompts.absent)
        attempt = Attempt(
            item,
            template.format(*classes),
            (lead,) if prompts.asked == "one" else tuple(classes),
            absent,
            derive_seed(seed, item, "noise"),
        )
        attempt.check()
        yield attempt


class _Draws:
    """What is drawn for one attempt; each kind of draw has randomness of its own."""

    def __init__(self, seed: int, item: str) -> None:
        self.seed, self.item = seed, item

    def one(self, entries: Sequence[Entry], what: str) -> Entry:
        random = generator(self.seed, self.item, what)
        return entries[int(torch.randint(len(entries), (), generator=random))]

    def several(self, entries: Sequence[Entry], count: int) -> tuple[Entry, ...]:
        if count > len(entries):
            reason = f"{count} absent classes of {len(entries)}: ask for fewer"
            raise InputError("grounding_data", "prompts.absent", reason)
        order = torch.randperm(len(entries), generator=generator(self.seed, self.item, "absent"))
        return tuple(entries[int(place)] for place in order[:count])
