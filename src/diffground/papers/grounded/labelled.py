"""Whose each pixel of a synthetic picture is: instances that overlap become labels that do not.

A pixel that several instances claim is of the one with the highest score (of equal ones, of the
first that the detector named), as in panoptic segmentation by mask queries. A pixel that is claimed
only by instances which the choice does not take is unsure: they score too little, are not the first
of their class, or are of a class that the prompt does not name.
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Final

import numpy as np
from numpy.typing import NDArray

from diffground.errors import InputError, shortened
from diffground.io.panoptic import Row, first_come, segment_row
from diffground.masks.phrase_masks import read_mask
from diffground.metrics.iou import UNSURE
from diffground.papers.grounded.classes import ClassSplit
from diffground.papers.grounded.data_config import ChoiceConfig
from diffground.papers.grounded.prompts import spans_of
from diffground.papers.grounded.samples import Instance, Record

# Raised when the same instances give other labels.
CODE_VERSION: Final = 1


@dataclass(frozen=True, eq=False)
class Labelled:
    """The labels of a picture.

    Attributes:
        segments: uint32 (H, W), whose a pixel is: 1, 2, ... of the first, second, ... of
            ``instances``; 0 is nobody's.
        unsure: bool (H, W), among nobody's.
        instances: those that have a pixel.
        covered: how many have none, as others lie over them.
    """

    segments: NDArray[np.uint32]
    unsure: NDArray[np.bool_]
    instances: tuple[Instance, ...]
    covered: int

    @classmethod
    def of(cls, record: Record, choice: ChoiceConfig) -> Labelled:
        """Those of a sample that the choice takes."""
        taken = record.true(choice)
        segments, places = first_come((read_mask(each.segmentation) for each in taken), record.size)
        shown = tuple(taken[place] for place in places)
        seen = np.zeros(record.size, bool)
        for each in record.instances:
            seen |= read_mask(each.segmentation)
        unsure = seen & (segments == 0)
        return cls(segments, unsure, shown, len(taken) - len(shown))

    def classes(self, labels: dict[str, int]) -> NDArray[np.uint8]:
        """Semantic labels uint8 (H, W): 0 is the background, 255 unsure."""
        table = np.array([0, *(labels[each.name] for each in self.instances)], np.uint8)
        found: NDArray[np.uint8] = table[self.segments]
        found[self.unsure] = UNSURE
        return found

    def rows(self, labels: dict[str, int]) -> list[Row]:
        """``segments_info`` of a panoptic JSON."""
        return [
            segment_row(self.segments == number, number, labels[each.name])
            for number, each in enumerate(self.instances, start=1)
        ]

    def chunks(self, record: Record) -> list[tuple[str, list[int], bool, bool]]:
        """The prompt as a narrative: its class words are nouns, and name their segments."""
        found: list[tuple[str, list[int], bool, bool]] = []
        at = 0
        for name, (start, end) in spans_of(record.prompt, record.names).items():
            mine = [n for n, each in enumerate(self.instances, start=1) if each.name == name]
            if before := record.prompt[at:start].strip():
                found.append((before, [], False, False))
            found.append((record.prompt[start:end], mine, False, True))
            at = end
        if rest := record.prompt[at:].strip():
            found.append((rest, [], False, False))
        return found


def check_all_asked(record: Record, split: ClassSplit) -> None:
    """Raises InputError if the prompt names a class that the detector was not asked about.

    It would be background in the labels, whether or not it is in the picture.
    """
    silent = [name for name in spans_of(record.prompt, split.names) if name not in record.names]
    if silent:
        reason = (
            f"{shortened(record.prompt)} names {silent[0]!r}, which the detector was not asked "
            "about, so that its pixels would be background: export sets with prompts.asked = all"
        )
        raise InputError(f"sample {record.id}", "prompts.asked", reason)
