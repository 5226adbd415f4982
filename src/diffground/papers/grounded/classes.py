"""Class splits: which classes a grounding module learns from, and which it never sees.

Splits 1 to 3 are of VOC's 20 classes (003, Table 1, and the public code), 4 to 6 of COCO's (the
public code of 004, where bench is in one group only). COCO is without mouse and sofa there, and
spelled as VOC where VOC has the class. The mini world has splits of its own.
"""

from __future__ import annotations

import difflib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal, get_args

from diffground.data.vocabulary import Vocabulary
from diffground.errors import InputError, shortened
from diffground.world.vocabulary import seen_and_unseen

SplitName = Literal[
    "voc1", "voc2", "voc3", "coco4", "coco5", "coco6", "mini1", "mini2", "mini3", "mini4"
]  # fmt: skip

#: What each split of a public dataset leaves out.
UNSEEN: Final[dict[str, tuple[str, ...]]] = {
    "voc1": ("tvmonitor", "car", "dog", "sofa", "train"),
    "voc2": ("horse", "motorbike", "person", "pottedplant", "sheep"),
    "voc3": ("bus", "cat", "chair", "cow", "diningtable"),
    "coco4": (
        "aeroplane", "train", "parking meter", "cat", "bear", "suitcase", "frisbee", "snowboard",
        "fork", "sandwich", "hot dog", "toilet", "toaster", "hair drier",
    ),
    "coco5": (
        "laptop", "remote", "keyboard", "cell phone", "microwave", "oven", "sink", "refrigerator",
        "book", "clock", "vase", "scissors", "teddy bear", "toothbrush",
    ),
    "coco6": (
        "banana", "apple", "orange", "broccoli", "carrot", "pizza", "donut", "cake", "chair",
        "bench", "pottedplant", "bed", "diningtable", "tvmonitor",
    ),
}  # fmt: skip

#: COCO's spelling of classes, and VOC's. Detectors of transformers have either.
SPELLINGS: Final[dict[str, str]] = {
    "airplane": "aeroplane",
    "couch": "sofa",
    "dining table": "diningtable",
    "motorcycle": "motorbike",
    "potted plant": "pottedplant",
    "tv": "tvmonitor",
}
ABSENT: Final = ("mouse", "sofa")  # of COCO's splits


@dataclass(frozen=True)
class ClassSplit:
    """Names of classes, as prompts have them."""

    name: str
    seen: tuple[str, ...]
    unseen: tuple[str, ...]

    @classmethod
    def of(cls, name: SplitName) -> ClassSplit:
        """A split by its name; InputError for one that there is not."""
        if name not in get_args(SplitName):
            known = ", ".join(get_args(SplitName))
            reason = f"{shortened(name)} is none: there are {known}"
            raise InputError("grounding", "split", reason)
        world, number = cls._world(name), int(name[-1])
        if world == "mini":
            seen, unseen = seen_and_unseen(number)
            return cls(name, tuple(c.name for c in seen), tuple(c.name for c in unseen))
        classes = Vocabulary.load(world).names
        if world == "coco":
            spelled = [SPELLINGS.get(one, one) for one in classes]
            classes = tuple(one for one in spelled if one not in ABSENT)
        left_out = UNSEEN[name]
        return cls(name, tuple(one for one in classes if one not in left_out), left_out)

    @property
    def names(self) -> tuple[str, ...]:
        """Seen and unseen ones."""
        return (*self.seen, *self.unseen)

    @property
    def vocabulary(self) -> Vocabulary:
        """That of the dataset which it is a split of."""
        return Vocabulary.load(self._world(self.name))

    def labels(self) -> dict[str, int]:
        """The label of each class in the masks of that dataset."""
        vocabulary, to_coco = self.vocabulary, {voc: coco for coco, voc in SPELLINGS.items()}
        known = {*vocabulary.names}
        return {
            name: vocabulary.index(name if name in known else to_coco[name]) for name in self.names
        }

    @staticmethod
    def _world(name: str) -> str:
        return name[:-1]


def detector_labels(
    names: Sequence[str], labels: Sequence[str], own: Mapping[str, Sequence[str]], where: Path
) -> dict[str, frozenset[str]]:
    """What a detector calls each of ``names``: the labels that mean it.

    Args:
        labels: all that the detector knows.
        own: labels of a name, where it is called otherwise than by VOC's or COCO's spelling.
        where: the detector's folder, for the error.

    Raises:
        InputError: a class that the detector does not know; it names those that are spelled alike.
    """
    folded = {label.casefold(): label for label in labels}
    to_coco = {voc: coco for coco, voc in SPELLINGS.items()}
    found = {}
    for name in names:
        tried = own.get(name, (name, SPELLINGS.get(name, name), to_coco.get(name, name)))
        found[name] = frozenset(folded[t.casefold()] for t in tried if t.casefold() in folded)
        if not found[name]:
            near = difflib.get_close_matches(name, labels, n=3, cutoff=0.0)
            reason = (
                f"the detector does not know {shortened(name)}, its labels nearest to it are "
                f"{', '.join(near)}: say what it calls the class in `detector.names`, or leave the "
                "class out"
            )
            raise InputError(where, "class", reason)
    return found
