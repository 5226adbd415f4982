"""Mug19: personal objects, pictures of scenes, and who is meant by which words (002, §4).

The layout is that of ``catalog_docs/mug19.md``; of its fields those are read that it says readers
may rely on. Entries that cannot be used are reported and left out, and the rest goes on::

    data = Mug19.read("data/01_raw/mini/mug19")
    for triplet in data.of_split("semantic_distractor"):
        image, wanted = triplet.load_image(), triplet.load_target()
"""

from __future__ import annotations

import re
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path, PurePosixPath
from typing import Any, Final, Literal, Self, TypeVar, get_args

import numpy as np
from numpy.typing import NDArray

from diffground.errors import InputError, ProblemReport
from diffground.io.files import load_json
from diffground.io.images import read_image
from diffground.io.labels import read_labels
from diffground.io.paths import inside, is_file
from diffground.store.manifest import fingerprint, read_manifest

# Raised when the same files give other items or triplets.
CODE_VERSION: Final = 1

Split = Literal["all", "semantic_distractor", "visual_distractor", "variant"]
SPLITS: Final[tuple[Split, ...]] = get_args(Split)

ITEMS, TRIPLETS = "items.json", "triplets.json"


@dataclass(frozen=True)
class Item:
    """One personal object.

    Attributes:
        id: "mug07".
        token, word: the item is taught to a model as "<new1> mug".
        pictures: of it alone, at least one, of any sides.
    """

    id: str
    token: str
    word: str
    pictures: tuple[Path, ...]


@dataclass(frozen=True)
class Triplet:
    """An object of a scene, the words that mean it, and a picture of the scene.

    Attributes:
        id: of its picture, instance and item, "scene01/000 mug12 by mug02"; without "by" where the
            item is the instance.
        item: whose pictures the model was taught.
        instance: which object is wanted: another one than ``item`` in variant triplets only.
        context: the words without the token, "a mug filled with cola".
        description: with it, "a <new1> mug filled with cola".
        image, mask: the picture of the scene, and its instances: 0 is everything else.
        segment: value of the wanted object in the mask.
        others: the scene's other objects.
        splits: that the triplet belongs to.
    """

    id: str
    item: str
    instance: str
    context: str
    description: str
    image: Path
    mask: Path
    segment: int
    others: tuple[str, ...]
    splits: tuple[Split, ...]

    def load_image(self) -> NDArray[np.uint8]:
        """The scene, uint8 RGB ``(H, W, 3)``; InputError for a file that cannot be read."""
        return read_image(self.image)

    def load_instances(self) -> NDArray[np.uint8]:
        """The scene's instances, uint8 ``(H, W)``.

        Raises InputError for a mask that cannot be read, of another size than the picture, or
        without the wanted object.
        """
        mask = read_labels(self.mask, size=self.load_image().shape[:2])
        if not (mask == self.segment).any():
            there = ", ".join(map(str, np.unique(mask)))
            reason = f"{self.segment} ({self.id}) is not in the mask, whose values are {there}"
            raise InputError(self.mask, "segment", reason)
        return mask

    def load_target(self) -> NDArray[np.bool_]:
        """Where the wanted object is, bool ``(H, W)``; InputError as of :meth:`load_instances`."""
        return np.asarray(self.load_instances() == self.segment)


@dataclass(frozen=True)
class Mug19:
    """What of a copy of Mug19 can be used, in the order of its files."""

    root: Path
    items: dict[str, Item]
    triplets: tuple[Triplet, ...]
    report: ProblemReport  # entries that cannot be used; its total counts items and triplets

    @classmethod
    def read(cls, root: str | Path) -> Self:
        """Reads both lists; no picture is opened.

        Raises:
            InputError: a list is missing or no list, or no triplet of it can be used.
        """
        folder, report = Path(root), ProblemReport()
        found = _each(folder / ITEMS, lambda entry: _item(entry, report), report)
        items = {item.id: item for item in found}
        triplets = tuple(_each(folder / TRIPLETS, lambda entry: _triplet(entry, items), report))
        if not triplets:
            first = f"; the first: {report.problems[0].reason}" if report.problems else ""
            raise InputError(folder / TRIPLETS, "triplets", f"none can be used{first}")
        return cls(folder, items, triplets, report)

    @property
    def fingerprint(self) -> str:
        """The data's hash: the manifest's digest, or for a copy of one's own that of its lists."""
        manifest = read_manifest(self.root)
        return manifest.digest if manifest else fingerprint(self.root, (ITEMS, TRIPLETS))

    def of_split(self, split: Split) -> tuple[Triplet, ...]:
        """The triplets of a split."""
        return tuple(triplet for triplet in self.triplets if split in triplet.splits)


class Fields:
    """A JSON object whose fields are asked for by name and kind."""

    def __init__(self, file: Path, entry: object) -> None:
        if not isinstance(entry, dict):
            raise InputError(file, "entry", f"an object is needed, not {entry!r:.60}")
        self.file, self._entry = file, entry

    def text(self, name: str) -> str:
        """A text that is not empty."""
        value = self._get(name)
        if not isinstance(value, str) or not value.strip():
            raise InputError(self.file, name, f"a text is needed, not {value!r:.60}")
        return value

    def texts(self, name: str) -> tuple[str, ...]:
        """A list of texts; it may be empty."""
        value = self._get(name)
        if not isinstance(value, list) or not all(isinstance(each, str) for each in value):
            raise InputError(self.file, name, f"a list of texts is needed, not {value!r:.60}")
        return tuple(value)

    def path(self, name: str) -> Path:
        """A file below the dataset's folder."""
        return _file(self.file, name, self.text(name))

    def paths(self, name: str, item: str, report: ProblemReport) -> tuple[Path, ...]:
        """The files of a list that are there; the others go to the report."""
        found = []
        for path in self.texts(name):
            try:
                found.append(_file(self.file, name, path))
            except InputError as error:
                report.add(item, error)
        return tuple(found)

    def label(self, name: str) -> int:
        """A value of a mask that is an object's: 1 to 254."""
        value = self._get(name)
        if not isinstance(value, int) or isinstance(value, bool) or not 0 < value < 255:
            raise InputError(self.file, name, f"1 to 254 is needed, not {value!r:.60}")
        return value

    def _get(self, name: str) -> Any:
        if name not in self._entry:
            raise InputError(self.file, name, "the entry lacks it")
        return self._entry[name]


Entry = TypeVar("Entry", Item, Triplet)


def _each(file: Path, read: Callable[[Fields], Entry], report: ProblemReport) -> Iterator[Entry]:
    """The usable entries of a list; the others go to the report by their place in it."""
    content = load_json(file)
    if not isinstance(content, list):
        raise InputError(file, "content", "a list is needed")
    seen: set[str] = set()
    for number, entry in enumerate(content):
        report.total += 1
        try:
            found = read(Fields(file, entry))
            # Of a triplet the words count too: one object may be asked for in several ways.
            key = found.id if isinstance(found, Item) else f"{found.id}: {found.description}"
            if key in seen:
                raise InputError(file, "id", f"{key} was listed before")
            seen.add(key)
        except InputError as error:
            report.add(f"{file.stem} {number}", error)
        else:
            yield found


def _item(entry: Fields, report: ProblemReport) -> Item:
    name = entry.text("id")
    if re.search(r"[^\w-]", name):  # folders are named after it
        raise InputError(entry.file, "id", f"{name!r:.60}: only letters, digits, _ and - are taken")
    pictures = entry.paths("images", name, report)
    if not pictures:
        raise InputError(entry.file, "images", f"there is no picture of {name}")
    return Item(name, entry.text("token"), entry.text("class"), pictures)


def _triplet(entry: Fields, items: dict[str, Item]) -> Triplet:
    name, instance, others = entry.text("item"), entry.text("instance"), entry.texts("others")
    for field, names in (("item", [name]), ("instance", [instance]), ("others", others)):
        if unknown := [each for each in names if each not in items]:
            raise InputError(entry.file, field, f"{', '.join(unknown)} is no item that can be used")
    item, context = items[name], entry.text("context")
    if len(re.findall(rf"(?<!\w){re.escape(item.word)}(?!\w)", context)) != 1:
        reason = f"{context!r:.60} has to say the class word {item.word!r} once"
        raise InputError(entry.file, "context", reason)
    description, subject = entry.text("description"), f"{item.token} {item.word}"
    if subject not in description or description.replace(subject, item.word) != context:
        reason = f"{description!r:.60} is not {context!r:.60} with {item.token} before its class"
        raise InputError(entry.file, "description", reason)
    scene = PurePosixPath(entry.text("image")).with_suffix("").as_posix().removeprefix("scenes/")
    return Triplet(
        id=f"{scene} {instance}" + ("" if name == instance else f" by {name}"),
        item=name,
        instance=instance,
        context=context,
        description=description,
        image=entry.path("image"),
        mask=entry.path("mask"),
        segment=entry.label("segment"),
        others=others,
        splits=tuple(_split(entry.file, split) for split in entry.texts("splits")),
    )


def _split(file: Path, name: str) -> Split:
    for split in SPLITS:
        if split == name:
            return split
    raise InputError(file, "splits", f"{name!r:.60} is none of {', '.join(SPLITS)}")


def _file(file: Path, field: str, path: str) -> Path:
    found = inside(file.parent, path, file, field)
    if not is_file(found):
        raise InputError(found, field, f"there is no such file; {file.name} names it")
    return found
