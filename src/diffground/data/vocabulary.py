"""Vocabularies: what labels mean, and in which words a model is asked for them.

A vocabulary is a JSON file, one object of this form (the shipped ones are in ``vocabularies/``)::

    {
      "about":      "where the words are from",            optional
      "lead":       "a photo including",                   optional, this is the default
      "background": ["tree", "river"],                     optional, default none
      "dataset":    "coco2014",                            optional: whose thresholds are taken,
                                                           the public code's for VOC without it
      "classes": {
        "4": {                            label id in the masks, 1..254 (0 background, 255 unsure)
          "name":       "boat",           as annotations, tables and results call the class; not
                                          "background", which is the name of label 0
          "prompt":     "boat",           optional: in words a text encoder knows; default: name
          "synonyms":   "boat, ship",     optional: taken in place of `prompt` when synonyms are
                                          asked for; several are separated by commas
          "background": ["sea", "lake"],  optional: the background words of this class, in place of
                                          the vocabulary's
          "note":       "why",            optional
          "official_synonyms":   "...",   optional: what the public code has where it differs from
          "official_background": ["..."]  the paper; taken with compat "official"
        }
      }
    }

A plain list of names, ``["cat", "sofa"]``, is a vocabulary as well: labels 1, 2, ... in that order.

Shipped: ``voc`` (PASCAL VOC 2012), ``coco`` (COCO 2014, 80 classes), ``mini`` (the mini world; both
of its semantic datasets have these labels).
"""

from __future__ import annotations

import difflib
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Annotated, Any, Literal

from pydantic import Field, StringConstraints, ValidationError, field_validator, model_validator

from diffground.config import Compat, Config, refused
from diffground.errors import InputError, shortened
from diffground.io.files import load_json

SHIPPED = Path(__file__).parent / "vocabularies"
LEAD = "a photo including"  # 002, §3.3
BACKGROUND = "background"  # the name of label 0
_MOST = 254  # labels of 8 bits, without the background and "unsure"
_LISTED = 12  # names in a message

Text = Annotated[str, StringConstraints(strip_whitespace=True, min_length=1)]
Label = Annotated[int, Field(ge=1, le=_MOST)]


class ClassEntry(Config):
    """One class; the fields are described at the top of this module."""

    name: Text
    prompt: Text | None = None
    synonyms: Text | None = None
    background: tuple[Text, ...] | None = None
    note: str = ""
    official_synonyms: Text | None = None
    official_background: tuple[Text, ...] | None = None

    @field_validator("name", "prompt", "synonyms", "official_synonyms")
    @classmethod
    def _has_words(cls, text: str | None) -> str | None:
        if text is not None and any(not part.strip() for part in text.split(",")):
            raise ValueError(f"nothing stands beside a comma: {shortened(text)}")
        return text

    def text(self, *, synonyms: bool, compat: Compat) -> str:
        """The words of a prompt for this class."""
        plain = self.prompt or self.name
        if not synonyms:
            return plain
        chosen = self.official_synonyms if compat == "official" else None
        return chosen or self.synonyms or plain

    def background_words(self, compat: Compat) -> tuple[str, ...] | None:
        """The class's own background words; None if it has those of the vocabulary."""
        if compat == "official" and self.official_background is not None:
            return self.official_background
        return self.background


class Vocabulary(Config):
    """Classes by label id, in ascending order; see the top of this module.

    Two names (or two prompts) that differ in capitals only are refused, and so is "background".
    """

    classes: dict[Label, ClassEntry] = Field(min_length=1)
    background: tuple[Text, ...] = ()
    lead: Text = LEAD
    dataset: Literal["coco2014"] | None = None
    about: str = ""

    @field_validator("classes")
    @classmethod
    def _ascending(cls, classes: dict[int, ClassEntry]) -> dict[int, ClassEntry]:
        return dict(sorted(classes.items()))

    @model_validator(mode="after")
    def _no_repeats(self) -> Vocabulary:
        names = [entry.name for entry in self.classes.values()]
        if taken := [name for name in names if name.casefold() == BACKGROUND]:
            raise ValueError(f"{taken[0]!r} is what results call all that is no class: rename it")
        prompts = [entry.prompt or entry.name for entry in self.classes.values()]
        for texts, what in ((names, "names"), (prompts, "prompts"), (self.background, "words")):
            folded = [text.casefold() for text in texts]
            repeated = sorted({text for text in folded if folded.count(text) > 1})
            if repeated:
                few = ", ".join(text[:60] for text in repeated[:5])
                raise ValueError(f"{what} that occur more than once: {few}")
        return self

    @classmethod
    def load(cls, name_or_path: str | Path) -> Vocabulary:
        """A shipped vocabulary by its name, or one of your own by the path of its JSON file.

        Raises :class:`InputError` for a file that is missing, no JSON, or not of the form described
        at the top of this module (a key given twice, an empty name, a name given twice, ...).
        """
        shipped = {path.stem: path for path in sorted(SHIPPED.glob("*.json"))}
        path = shipped.get(str(name_or_path), Path(name_or_path))
        if not path.is_file():
            reason = f"there is no such file, and the shipped ones are {', '.join(shipped)}"
            raise InputError(path, "vocabulary", reason)
        return _from_content(load_json(path, pairs=_unique_keys), path)

    @classmethod
    def from_names(cls, names: Sequence[str], background: Sequence[str] = ()) -> Vocabulary:
        """A vocabulary of these names, with labels 1, 2, ...; InputError as :meth:`load`."""
        if isinstance(names, str):
            reason = f"a list is needed, not a text: {shortened(names)}"
            raise InputError("vocabulary", "names", reason)
        return _from_content(list(names), "vocabulary", background)

    @property
    def names(self) -> tuple[str, ...]:
        """The names, in the order of their labels."""
        return tuple(entry.name for entry in self.classes.values())

    @property
    def label_names(self) -> tuple[str, ...]:
        """The name of label 0, the background, 1, ...; labels without a class are numbered."""
        known = self.classes
        labels = range(1, max(known) + 1)
        return (BACKGROUND, *(known[i].name if i in known else f"label {i}" for i in labels))

    def name_of(self, text: str) -> str:
        """The name of the class that is called ``text``: by its name, or by its prompt.

        Raises :class:`InputError`, with names that there are, if there is none.
        """
        return self.classes[self.index(text)].name

    def index(self, name: str) -> int:
        """The label id of a class, called as in :meth:`name_of`; blanks around it do not count."""
        name = str(name).strip()
        for field in ("name", "prompt"):
            for label, entry in self.classes.items():
                if name == getattr(entry, field):
                    return label
        alike = difflib.get_close_matches(name, self.names, n=3)
        hint = f"; did you mean {' or '.join(alike)}?" if alike else "."
        nearest = sorted(self.names, key=lambda known: known not in alike)
        known = ", ".join(nearest[:_LISTED])
        more = f" and {len(nearest) - _LISTED} more" if len(nearest) > _LISTED else ""
        raise InputError(
            "vocabulary",
            "name",
            f"there is no class {shortened(name)}{hint} There are {known}{more}. Any other word "
            "can be asked for without a vocabulary: `vocabulary=None`; or with one of your own, a "
            'JSON list such as ["zebra"]',
        )

    def entry(self, name: str) -> ClassEntry:
        """The class called ``name``."""
        return self.classes[self.index(name)]

    def names_of(self, labels: Iterable[int]) -> tuple[str, ...]:
        """The names of label ids, ascending; InputError naming the ids that have none."""
        wanted = sorted(set(labels))
        unknown = [label for label in wanted if label not in self.classes]
        if unknown:
            raise InputError("vocabulary", "labels", f"no class has the label {unknown}")
        return tuple(self.classes[label].name for label in wanted)

    def background_words(self, classes: Sequence[str], compat: Compat) -> tuple[str, ...]:
        """The background words of some classes: each one's list in turn, no word twice."""
        own = [self.entry(name).background_words(compat) for name in classes]
        lists = [self.background if words is None else words for words in own]
        return tuple(dict.fromkeys(word for words in lists for word in words))


def _from_content(
    content: Any, file: str | Path, background: Sequence[str] | None = None
) -> Vocabulary:
    """A vocabulary of parsed JSON; pydantic's findings as an InputError."""
    if isinstance(content, list):
        if len(content) > _MOST:
            reason = f"{len(content)} are given, and a mask of 8 bits has {_MOST} labels for them"
            raise InputError(file, "names", reason)
        entries = {label: {"name": name} for label, name in enumerate(content, start=1)}
        content = {"classes": entries, "background": tuple(background or ())}
    if not isinstance(content, Mapping):
        raise InputError(file, "vocabulary", "an object or a list of names is expected")
    try:
        return Vocabulary.model_validate(content)
    except ValidationError as error:
        raise refused(file, error, "vocabulary") from error


def _unique_keys(pairs: list[tuple[str, Any]]) -> dict[str, Any]:
    """JSON's own rule, that the last of equal keys wins, would lose a class without a word."""
    content = dict(pairs)
    if len(content) < len(pairs):
        keys = [key for key, _ in pairs]
        repeated = sorted({key for key in keys if keys.count(key) > 1})
        raise ValueError(f"keys that occur more than once: {', '.join(repeated)}")
    return content
