"""What is asked of the pictures of Mug19's scenes: queries of objects and of triplets (002, §4)."""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
from numpy.typing import NDArray

from diffground.data.mug19 import Item, Mug19, Triplet
from diffground.errors import InputError, ProblemReport
from diffground.io.labels import read_labels
from diffground.metrics.iou import UNSURE
from diffground.papers.personalized.queries import Query
from diffground.reporting.few import evenly

log = logging.getLogger(__name__)


@dataclass(frozen=True)
class View:
    """One picture of a scene, and the triplets that are about it.

    Attributes:
        id: the name of its files, "scene01_000".
        objects: all that is in the scene, of which each is asked for.
        triplets: at least one.
    """

    id: str
    image: Path
    mask: Path
    objects: tuple[str, ...]
    triplets: tuple[Triplet, ...]

    def load_instances(self) -> NDArray[np.bool_]:
        """Masks of the instances, bool ``(M, H, W)``, and of no other pixel.

        Raises InputError for a mask that cannot be read, of another size than the picture, or
        without an object that a triplet wants.
        """
        mask = self.triplets[0].load_instances()
        return np.stack([mask == value for value in self._values(mask)])

    def places(self) -> dict[str, int]:
        """Triplet's id -> which of the instances it wants; InputError if that is not there."""
        mask = read_labels(self.mask)
        values = self._values(mask)
        for triplet in self.triplets:
            if triplet.segment not in values:
                triplet.load_instances()  # says what is there
        return {triplet.id: values.index(triplet.segment) for triplet in self.triplets}

    def _values(self, mask: NDArray[np.uint8]) -> list[int]:
        return [int(value) for value in np.unique(mask) if value not in (0, UNSURE)]


@dataclass(frozen=True)
class Scenes:
    """What of a copy of Mug19 is looked at.

    Attributes:
        items: those that are asked for, by id.
        views: pictures of scenes, in the order of their triplets.
        report: entries that cannot be used.
        data: the dataset's hash.
    """

    items: dict[str, Item]
    views: tuple[View, ...]
    report: ProblemReport
    data: str

    @classmethod
    def of(cls, data: Mug19, limit: int | None = None) -> Self:
        """All that can be used, or ``limit`` pictures that are spread evenly over the list."""
        for problem in data.report.problems:
            log.warning("%s is skipped: %s: %s", problem.item, problem.file, problem.reason)
        grouped: dict[Path, list[Triplet]] = {}
        for triplet in data.triplets:
            grouped.setdefault(triplet.image, []).append(triplet)
        views = [_view(data.root, image, found) for image, found in grouped.items()]
        if limit is not None:
            views = evenly(views, limit)
        wanted = {name for view in views for name in view.objects}
        wanted |= {triplet.item for view in views for triplet in view.triplets}
        items = {name: item for name, item in data.items.items() if name in wanted}
        return cls(items, tuple(views), data.report, data.fingerprint)

    def view(self, name: str) -> View:
        """By its id."""
        return next(view for view in self.views if view.id == name)

    def objects(self, view: View) -> list[Query]:
        """What asks for each object of a scene, in the order of :attr:`View.objects`.

        The words are those of the object's own triplet of this picture; an object without one is
        asked for by its token and class alone.
        """
        own = {t.instance: t for t in reversed(view.triplets) if t.item == t.instance}
        return [
            self.query(own[name]) if name in own else self._query(name, f"a {self._word(name)}")
            for name in view.objects
        ]

    def query(self, triplet: Triplet) -> Query:
        """What a triplet asks."""
        return self._query(triplet.item, triplet.context)

    def together(self, view: View, triplet: Triplet) -> list[Query]:
        """What shares the segments out with a triplet: its query, first, and its others'."""
        known = dict(zip(view.objects, self.objects(view), strict=True))
        return [self.query(triplet), *(known[name] for name in triplet.others)]

    def asked(self, view: View) -> list[Query]:
        """All that is asked of a picture, each once: its objects first."""
        queries = [*self.objects(view), *(self.query(triplet) for triplet in view.triplets)]
        return list(dict.fromkeys(queries))

    def _query(self, name: str, context: str) -> Query:
        item = self.items[name]
        return Query(name, item.token, item.word, context, item.pictures)

    def _word(self, name: str) -> str:
        return self.items[name].word


def _view(root: Path, image: Path, triplets: Sequence[Triplet]) -> View:
    place = image.relative_to(root).with_suffix("").as_posix().removeprefix("scenes/")
    objects = dict.fromkeys(name for t in triplets for name in (t.instance, *t.others))
    first = triplets[0]
    differing = [t for t in triplets if t.mask != first.mask]
    if differing:
        reason = f"{differing[0].id} names another mask of the same picture than {first.id}"
        raise InputError(differing[0].mask, "mask", reason)
    return View(place.replace("/", "_"), image, first.mask, tuple(objects), tuple(triplets))
