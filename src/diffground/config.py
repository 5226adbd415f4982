"""The base class of every configuration: frozen, and strict about keys and numbers."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path
from typing import Annotated, Any, Final, Literal, get_args

from pydantic import BaseModel, ConfigDict, StringConstraints, ValidationError, model_validator
from pydantic_core import InitErrorDetails, PydanticCustomError

from diffground.errors import InputError

#: Marks a field that results do not depend on, ``workers: Annotated[int, NOT_IN_KEY] = 0``: how
#: fast something is done, in what portions, or what is said about it.
NOT_IN_KEY: Final = "not in key"

#: Where From Text to Mask (002) and its public code differ: the code step by step, or the text.
Compat = Literal["official", "paper"]

#: How public evaluators of panoptic narrative grounding differ: on which grid masks are compared,
#: and what counts as a plural. :mod:`diffground.metrics.average_recall` has the table.
Protocol = Literal["original", "ppmn", "png_soft"]
PluralRule = Literal["count", "flag"]


class Config(BaseModel):
    """A frozen pydantic model that rejects unknown keys, so that a typo fails before the run.

    Numbers are finite, and ``true`` is none.
    """

    model_config = ConfigDict(
        frozen=True, extra="forbid", protected_namespaces=(), allow_inf_nan=False
    )

    def key_content(self) -> dict[str, Any]:
        """JSON-ready, all that results depend on: without fields that are :data:`NOT_IN_KEY`."""
        fields = type(self).model_fields
        aside = {name for name, field in fields.items() if NOT_IN_KEY in field.metadata}
        content = self.model_dump(mode="json", exclude=aside)
        for name in content:
            value = getattr(self, name)
            if isinstance(value, Config):
                content[name] = value.key_content()
        return content

    def refusal(self, field: str, reason: str) -> ValidationError:
        """The error of a value that does not go with others, to be raised by a validator.

        Args:
            field: which is to be changed; in a part, with dots.
        """
        value: Any = self
        for name in field.split("."):
            value = getattr(value, name)
        return ValidationError.from_exception_data(
            type(self).__name__, [_details(field, reason, value)]
        )

    @model_validator(mode="before")
    @classmethod
    def _truth_is_no_number(cls, content: Any) -> Any:
        if not isinstance(content, dict):
            return content
        wrong = [
            _details(name, "true and false are no numbers or names", value)
            for name, value in content.items()
            if _holds_truth(value)
            and name in cls.model_fields
            and not _takes_truth(cls.model_fields[name].annotation)
        ]
        if wrong:
            raise ValidationError.from_exception_data(cls.__name__, wrong)
        return content


def refused(where: str | Path, error: ValidationError, field: str = "") -> InputError:
    """The first thing that pydantic found wrong, below ``field``; it may find hundreds."""
    first = error.errors(include_url=False, include_input=False)[0]
    parts = [repr(str(part)[:40])[1:-1] for part in first["loc"]]
    place = ".".join([field, *parts] if field else parts)
    return InputError(where, place or "content", first["msg"])


def _details(field: str, reason: str, value: Any) -> InitErrorDetails:
    kind = PydanticCustomError("refused", "{reason}", {"reason": reason})
    return InitErrorDetails(type=kind, loc=tuple(field.split(".")), input=value)


def _holds_truth(value: Any) -> bool:
    return isinstance(value, bool) or (
        isinstance(value, list | tuple) and any(isinstance(entry, bool) for entry in value)
    )


def _takes_truth(annotation: Any) -> bool:
    return annotation in (bool, Any) or any(map(_takes_truth, get_args(annotation)))


_RUNS_HERE = "a device of the machine that runs"
_NAMES = r"cpu|mps|(cuda|xpu)(:\d+)?"

#: A field that names a device of torch: "cpu", "cuda", "cuda:1", "mps". The name is checked when
#: the configuration is made; whether this machine has it, before a run (:func:`devices`).
Device = Annotated[str, StringConstraints(pattern=rf"^({_NAMES})$"), _RUNS_HERE]
#: The same, or "auto": the GPU if there is one.
AutoDevice = Annotated[str, StringConstraints(pattern=rf"^(auto|{_NAMES})$"), _RUNS_HERE]


def devices(config: Any, path: str) -> Iterator[tuple[str, str]]:
    """The :data:`Device` fields of a configuration and of those in it, as ``(path, name)``."""
    if not isinstance(config, BaseModel):
        return
    for name, field in type(config).model_fields.items():
        value = getattr(config, name)
        if _RUNS_HERE in field.metadata:
            yield f"{path}.{name}", value
        yield from devices(value, f"{path}.{name}")
