"""The four methods behind one face: asked of a :class:`~.requests.Request`, they give its masks.

A method is opened from folders, and its models are loaded when it is first asked: a run that finds
all made loads nothing.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any, Final, cast

from diffground.attention import aggregate
from diffground.backbone import frozen
from diffground.backbone.folder import ModelFolder
from diffground.backbone.personal import CARD as TOKEN_CARD
from diffground.backbone.personal import WEIGHTS as TOKEN_WEIGHTS
from diffground.data.vocabulary import Vocabulary
from diffground.errors import InputError
from diffground.ground.config import MethodName
from diffground.ground.requests import Request, Words
from diffground.masks import crf, phrase_masks, spectral
from diffground.masks.phrase_masks import PhraseMasks
from diffground.papers.grounded import features as grounded_features
from diffground.papers.grounded import generation, queries
from diffground.papers.grounded import module as grounded_module
from diffground.papers.grounded.generator import GroundedGenerator
from diffground.papers.grounded.trained import CARD, FILES
from diffground.papers.personalized import localiser as of_localiser
from diffground.papers.personalized.config import PersonalLocaliserConfig
from diffground.papers.personalized.personal_localiser import PersonalLocaliser
from diffground.papers.png import decoder, eipa, mlma
from diffground.papers.png import model as png_model
from diffground.papers.png.config import PngConfig, PngFolders
from diffground.papers.png.grounder import NarrativeGrounder
from diffground.papers.png.keys import Variant
from diffground.papers.png.model import CONFIG, WEIGHTS
from diffground.papers.png.trained import TRAINING, load_checkpoint, load_variant
from diffground.papers.text2mask.config import TextToMaskConfig
from diffground.papers.text2mask.text_to_mask import TextToMask
from diffground.provenance import Recipe, code_of
from diffground.store.manifest import fingerprint

Ask = Callable[[Request], PhraseMasks]

_CODE: Final = {
    "narrative": (phrase_masks, frozen, png_model, eipa, mlma, decoder),
    "text2mask": (phrase_masks, frozen, aggregate, crf),
    "personal": (phrase_masks, frozen, aggregate, spectral, of_localiser),
    "grounded": (phrase_masks, frozen, generation, grounded_features, grounded_module, queries),
}


@dataclass(frozen=True, eq=False)
class Method:
    """One method with its models.

    Attributes:
        recipe: JSON-ready, all that results depend on beside an image and its words.
        names: of the frozen model's folder, and of what was trained in it.
        opening: loads the models.
        vocabulary: whose names phrases are, where only these are known.
    """

    name: MethodName
    recipe: Recipe
    names: tuple[str, ...]
    opening: Callable[[], Ask]
    vocabulary: Vocabulary | None = None

    @cached_property
    def ask(self) -> Ask:
        """Masks of a request. Raises InputError for what the method cannot do with it."""
        return self.opening()

    @property
    def reads_narratives(self) -> bool:
        """Whether phrases are asked for within their narrative, where they may come twice."""
        return self.name == "narrative"

    def phrases(self, words: Words) -> list[str]:
        """What the masks will be called. Raises InputError for words outside of the vocabulary."""
        if self.reads_narratives:
            return list(words.phrases)
        if self.vocabulary is None:
            return words.distinct
        return [self.vocabulary.name_of(phrase) for phrase in words.distinct]


def method_of(checkpoint: Path) -> MethodName:
    """Whose checkpoint lies in a folder. Raises InputError if it is nobody's."""
    kinds = {CONFIG: "narrative", CARD: "grounded", TOKEN_CARD: "personal"}
    folder = checkpoint.parent if checkpoint.is_file() else checkpoint
    for card, name in kinds.items():
        if (folder / card).is_file():
            return cast(MethodName, name)
    what = "png_train trains (png.json), grounding_train (module.json), or a learned token"
    reason = f"no trained model lies here: none of what {what} (config.json)"
    raise InputError(folder, "checkpoint", reason)


def open_method(
    name: MethodName,
    model: Path,
    checkpoint: Sequence[Path] = (),
    *,
    vocabulary: str | None = None,
    seed: int,
    device: str,
) -> Method:
    """A method from folders.

    Args:
        model: Stable Diffusion in diffusers layout.
        checkpoint: of what was trained in it: a folder or file of png_train's, a folder of
            grounding_train's, folders of learned tokens, or nothing for text2mask.
        vocabulary: of text2mask, see :class:`~.config.GroundConfig`.
        device: that is there.

    Raises:
        InputError: the model's folder is missing or damaged, or there is no checkpoint where one
            is needed, or none of this method.
    """
    words = None if vocabulary is None else Vocabulary.load(vocabulary)
    recipe: dict[str, Any] = {
        "method": name,
        "code": code_of(*_CODE[name]),
        "model": ModelFolder.check(model).fingerprint(),
        "seed": seed,
    }
    if name == "text2mask":
        recipe["settings"] = TextToMaskConfig.of(model).model_dump(mode="json")
        recipe["vocabulary"] = None if words is None else words.model_dump(mode="json")
    else:
        recipe["checkpoint"] = [_checked(name, path) for path in _given(name, checkpoint)]
    if name == "personal":
        settings = PersonalLocaliserConfig.of(model).localiser
        recipe["settings"] = settings.model_dump(mode="json")

    def opening() -> Ask:
        if name == "narrative":
            return of_grounder(
                NarrativeGrounder.from_pretrained(model, checkpoint[0], device=device)
            )
        if name == "text2mask":
            return _of_segmenter(model, vocabulary, seed, device)
        if name == "personal":
            localiser = PersonalLocaliser.from_pretrained(model, device=device).wear(*checkpoint)
            return lambda request: localiser(
                _photo(request), request.words.distinct, item=request.item, seed=seed
            )
        return _of_generator(
            GroundedGenerator.from_pretrained(model, checkpoint[0], device=device), seed
        )

    names = (model.name, *(path.name for path in checkpoint))
    return Method(name, recipe, names, opening, words)


def trained_narrative(
    png: PngConfig, folders: PngFolders, model: Path, checkpoint: str | None, device: str
) -> Method:
    """A model that ``png_train`` trained, read off (head, threshold) as ``png`` says.

    Args:
        checkpoint: its name in the folder of models, or a path; None: the one that was trained with
            these settings, or zero-shot static prompting.

    Raises:
        InputError: there is none, or it was trained in another frozen model.
    """
    placed = png.model_copy(update={"device": device})
    backbone = placed.load_backbone(model)
    if checkpoint is None:
        variant = Variant.of(placed, folders, backbone)
        trained, name = load_variant(variant), variant.name
        which = name
    else:
        trained, name = load_checkpoint(placed, folders.models, backbone, checkpoint)
        named = folders.models / checkpoint
        which = _checked("narrative", named if named.exists() else Path(checkpoint))
    recipe: dict[str, Any] = {
        "method": "narrative",
        "code": code_of(*_CODE["narrative"]),
        "model": backbone.fingerprint(),
        "checkpoint": [which],
        "settings": trained.config.model_dump(mode="json"),
        "data": png.data.model_dump(mode="json"),
    }
    ask = of_grounder(NarrativeGrounder(trained, png.data))
    return Method("narrative", recipe, (model.name, name), lambda: ask)


def of_grounder(grounder: NarrativeGrounder) -> Ask:
    """Narratives, or lists of phrases, for a model that is loaded."""

    def ask(request: Request) -> PhraseMasks:
        words = request.words
        if words.narrative is None:
            return grounder(_photo(request), words.phrases, item=request.item)
        return grounder(_photo(request), words.narrative, spans=words.spans, item=request.item)

    return ask


def _of_segmenter(model: Path, vocabulary: str | None, seed: int, device: str) -> Ask:
    segmenter = TextToMask.from_pretrained(model, vocabulary=vocabulary, device=device)
    return lambda request: segmenter(
        _photo(request), request.words.distinct, item=request.item, seed=seed
    )


def _of_generator(generator: GroundedGenerator, seed: int) -> Ask:
    def ask(request: Request) -> PhraseMasks:
        names = request.words.distinct
        if request.prompt is not None:
            return generator(request.prompt, names, seed=seed)
        return generator.segment(_photo(request), names, item=request.item, seed=seed)

    return ask


def _photo(request: Request) -> Path:
    if request.image is None:
        reason = "images are generated by the method grounded alone; name an image"
        raise InputError(request.name or "request", "prompt", reason)
    return request.image


def _given(name: MethodName, checkpoint: Sequence[Path]) -> Sequence[Path]:
    if checkpoint:
        return checkpoint
    made = {
        "narrative": "`kedro run --pipelines png_train` trains one",
        "grounded": "`kedro run --pipelines grounding_train` trains one",
        "personal": "PersonalLocaliser.learn and `kedro run --pipelines personalized` learn tokens",
    }
    raise InputError(name, "checkpoint", f"the method needs one: {made[name]}; name its folder")


def _checked(name: MethodName, path: Path) -> str:
    """A hash of what lies there, if it is of the method."""
    if not path.exists():
        raise InputError(path, "checkpoint", "there is no such folder")
    found = method_of(path)
    if found != name:
        raise InputError(path, "checkpoint", f"it is of the method {found}, not of {name}")
    files = {
        "narrative": (path.name if path.is_file() else WEIGHTS, CONFIG, TRAINING),
        "grounded": (FILES["best"], CARD),
        "personal": (TOKEN_WEIGHTS, TOKEN_CARD),
    }
    return fingerprint(path.parent if path.is_file() else path, files[name])
