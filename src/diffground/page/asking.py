"""What the page asks: one image or prompt, and its masks and maps as pictures."""

from __future__ import annotations

import base64
import io
import tempfile
from collections.abc import Mapping
from pathlib import Path
from threading import Lock
from typing import Annotated, Any, Final

import numpy as np
from numpy.typing import NDArray
from PIL import Image
from pydantic import Field, StringConstraints

from diffground.config import Config
from diffground.errors import InputError
from diffground.ground.config import METHODS, MethodName
from diffground.ground.methods import Method, method_of, open_method
from diffground.ground.requests import Request, read_words
from diffground.io.images import write_png
from diffground.masks.phrase_masks import PhraseMasks
from diffground.page.samples import COUNT, sample
from diffground.reporting.overlays import palette
from diffground.reporting.sheet import heat, resized

_WIDTH: Final = 320  # of a map's picture, pixels
_LONGEST: Final = 4000  # characters of what is typed
_KEPT: Final = 2  # methods that stay in memory

Text = Annotated[str, StringConstraints(strip_whitespace=True, max_length=_LONGEST)]

TITLES: Final[Mapping[MethodName, str]] = {
    "text2mask": "any words (From Text to Mask)",
    "narrative": "a narrative (Dynamic Prompting)",
    "personal": "a thing of one's own (From Text to Mask)",
    "grounded": "a prompt or a photograph (grounded generation)",
}


class Question(Config):
    """What a browser sends."""

    method: MethodName = "text2mask"
    words: Text
    sample: int | None = None  # the number of one of the samples; or
    image: str | None = None  # the bytes of a picture's file, base64; or
    prompt: Text | None = None  # of which a picture is generated
    model: Text | None = None  # a folder; None: the one that the page was opened with
    checkpoint: Text | None = None  # a folder
    seed: int = Field(42, ge=0)


class Asking:
    """The page's models, one question at a time."""

    def __init__(self, model: Path, device: str) -> None:
        self.model, self.device = model, device
        self._lock = Lock()
        self._opened: dict[tuple[Any, ...], Method] = {}

    def choices(self) -> dict[str, Any]:
        """JSON-ready: methods, samples, and the checkpoints that lie in this folder's data."""
        samples = [sample(index) for index in range(COUNT)]
        return {
            "methods": [{"name": name, "title": TITLES[name]} for name in METHODS],
            "model": str(self.model),
            "samples": [
                {"words": each.words, "narrative": each.narrative, "prompt": each.prompt}
                for each in samples
            ],
            "checkpoints": _checkpoints(Path("data/06_models")),
        }

    def answer(self, question: Question) -> dict[str, Any]:
        """JSON-ready: the overlay, and of each phrase its mask's share, note, colour and map.

        Pictures are PNGs as data URLs. Raises InputError for what cannot be answered.
        """
        with self._lock, tempfile.TemporaryDirectory() as place:
            method = self._method(question)
            words = read_words(question.words, narratives=method.reads_narratives)
            method.phrases(words)
            if question.prompt:
                request = Request("page", words, prompt=question.prompt)
            else:
                request = Request("page", words, _picture(question, Path(place)))
            return _shown(method.ask(request), generated=bool(question.prompt))

    def _method(self, question: Question) -> Method:
        key = (question.method, question.model, question.checkpoint, question.seed)
        if key not in self._opened:
            while len(self._opened) >= _KEPT:
                del self._opened[next(iter(self._opened))]
            model = Path(question.model) if question.model else self.model
            given = question.checkpoint if question.method != "text2mask" else None
            checkpoint = [Path(given)] if given else []
            self._opened[key] = open_method(
                question.method, model, checkpoint, seed=question.seed, device=self.device
            )
        return self._opened[key]


def _checkpoints(models: Path) -> list[dict[str, str]]:
    """What was trained here, by its method."""
    found = []
    for path in sorted([*models.glob("*/*/"), *models.glob("personalized/*/*/")]):
        try:
            found.append({"path": path.as_posix(), "method": method_of(path)})
        except InputError:
            continue
    return found


def _picture(question: Question, place: Path) -> Path:
    """The question's picture as a file, so that it is read as every picture is."""
    path = place / "picture"
    if question.sample is not None:
        return write_png(path.with_suffix(".png"), sample(question.sample).image)
    if not question.image:
        raise InputError("picture", "image", "there is none: choose a sample, or a file of yours")
    try:
        path.write_bytes(base64.b64decode(question.image, validate=True))
    except ValueError as error:
        raise InputError("picture", "image", "it did not arrive whole; send it again") from error
    return path


def _shown(result: PhraseMasks, *, generated: bool) -> dict[str, Any]:
    colours = palette(len(result))
    rows = zip(result.phrases, result.masks, result.notes(), colours, strict=True)
    maps = result.maps
    return {
        "overlay": _url(result.overlay()),
        "image": _url(Image.fromarray(result.image)) if generated else None,
        "score": result.score,
        "phrases": [
            {
                "text": text,
                "note": note,
                "share": float(mask.mean()),
                "colour": "rgb({}, {}, {})".format(*colour),
                **_map(None if maps is None else maps[place], result.size),
            }
            for place, (text, mask, note, colour) in enumerate(rows)
        ],
    }


def _map(values: NDArray[np.float32] | None, size: tuple[int, int]) -> dict[str, Any]:
    """A map in colours from 0 to its highest value, and that value; of the image's aspect."""
    if values is None:
        return {"map": None, "highest": None}
    highest = float(values.max())
    picture = resized(heat(values / (highest or 1)), _WIDTH, smooth=True)
    return {
        "map": _url(picture.resize((_WIDTH, max(1, round(_WIDTH * size[0] / size[1]))))),
        "highest": highest,
    }


def _url(picture: Image.Image) -> str:
    content = io.BytesIO()
    picture.save(content, "PNG")
    return f"data:image/png;base64,{base64.b64encode(content.getvalue()).decode('ascii')}"
