"""What to ground, and by which method."""

from __future__ import annotations

from pathlib import Path
from typing import Annotated, Any, Literal, Self, get_args

from pydantic import Field, PositiveInt, field_validator, model_validator

from diffground.config import NOT_IN_KEY, AutoDevice, Config
from diffground.errors import InputError
from diffground.store.config import WorkConfig

#: Panoptic narrative grounding, From Text to Mask and its personal objects, grounded generation.
MethodName = Literal["narrative", "text2mask", "personal", "grounded"]
METHODS: tuple[MethodName, ...] = get_args(MethodName)


class GroundConfig(Config):
    """What to ground: ``params:ground``. Paths count from where the command runs.

    Without ``source`` and ``prompt``: the first validation image of the benchmark, and the phrases
    of its own narrative.
    """

    method: MethodName
    source: Path | None  # an image, a folder of images, or a table (.csv, .jsonl), see `requests`
    # Phrases between semicolons, or a narrative with [brackets]; of all images that have none of
    # their own in the table.
    words: str | None
    prompt: str | None  # grounded: an image is generated of it, and `words` are in it
    images: Path | None  # the folder that a table's images count from; null: the table's own
    model: Path | None  # of Stable Diffusion, in diffusers layout; null: the catalog's
    # What was trained or learned in it: folders, or names of those in the catalog's. Several for
    # personal, a token each; text2mask needs none.
    checkpoint: tuple[Annotated[str, Field(min_length=1)], ...]
    vocabulary: str | None  # text2mask: voc, coco, mini or a JSON file; null: words as they are
    max_phrases: PositiveInt | None  # of an image; the rest is left out and said; null: all
    seed: int  # of noises, with the image's name, and of what is generated
    device: Annotated[AutoDevice, NOT_IN_KEY]
    work: Annotated[WorkConfig, NOT_IN_KEY] = WorkConfig()  # shards of images

    @field_validator("checkpoint", mode="before")
    @classmethod
    def _one_or_several(cls, content: Any) -> Any:
        if content is None:
            return ()
        return (content,) if isinstance(content, str | Path) else content

    @model_validator(mode="after")
    def _choices_fit(self) -> Self:
        if self.prompt is not None and self.method != "grounded":
            raise self.refusal("prompt", "only the method grounded generates images")
        if self.prompt is not None and self.source is not None:
            raise self.refusal("prompt", "an image is generated of it, so there is no source")
        if (self.prompt or self.table is None and self.source) and self.words is None:
            raise self.refusal("words", 'say what to look for: "a cat; a sofa"')
        if self.images is not None and self.table is None:
            raise self.refusal("images", "they are a table's, and source is none")
        if self.vocabulary is not None and self.method != "text2mask":
            raise self.refusal("vocabulary", "it is of the method text2mask")
        if self.checkpoint and self.method == "text2mask":
            raise self.refusal("checkpoint", "text2mask has none: nothing is trained for it")
        if len(self.checkpoint) > 1 and self.method != "personal":
            raise self.refusal("checkpoint", "several are of the method personal, a token each")
        return self

    def checkpoints(self, named: Path | None) -> list[Path]:
        """Where the checkpoints lie.

        Args:
            named: whose folders may be called by their names; all else are paths.

        Raises:
            InputError: there is none of the name, and no such path.
        """
        found = []
        for name in self.checkpoint:
            places = [named / name, Path(name)] if named else [Path(name)]
            there = [place for place in places if place.exists()]
            if not there:
                reason = "there is no such folder"
                if named is not None:
                    folders = sorted(each.name for each in named.glob("*/"))
                    reason += f", and in {named} there are: {', '.join(folders) or 'none'}"
                raise InputError(name, "checkpoint", reason)
            found.append(there[0])
        return found

    @property
    def table(self) -> Path | None:
        """The source, if it is a table."""
        tables = (".csv", ".jsonl")
        is_table = self.source is not None and self.source.suffix.lower() in tables
        return self.source if is_table else None
