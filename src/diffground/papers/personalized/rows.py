"""The methods by the names that the settings have for them: how each is opened, and what of.

A method that is added here can be asked for as ``personalized.method`` and be a row of the tables.
"""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from pathlib import Path
from types import ModuleType
from typing import Any, Final, cast

import numpy as np
from numpy.typing import NDArray
from torch import Tensor

from diffground.attention import aggregate
from diffground.backbone import contrastive
from diffground.backbone import frozen as of_frozen
from diffground.backbone.contrastive import Contrastive, carried
from diffground.backbone.on_demand import Frozen
from diffground.backbone.personal import PersonalToken
from diffground.errors import InputError
from diffground.masks import spectral
from diffground.papers.personalized import localiser as of_localiser
from diffground.papers.personalized.baselines import (
    arithmetic,
    clip_es,
    descriptors,
    detector,
    palavra,
)
from diffground.papers.personalized.baselines.arithmetic import Arithmetic
from diffground.papers.personalized.baselines.clip_es import ClipEs
from diffground.papers.personalized.baselines.descriptors import DenseDescriptors
from diffground.papers.personalized.baselines.detector import DetectorFeatures
from diffground.papers.personalized.baselines.palavra import PalavraWords
from diffground.papers.personalized.config import MethodName, PersonalizedConfig
from diffground.papers.personalized.localiser import Localiser
from diffground.papers.personalized.methods import Method
from diffground.papers.personalized.queries import Query
from diffground.papers.personalized.selfcross_rows import Asks, SelfCrossMethod
from diffground.provenance import code_of
from diffground.seeds import derive_seed
from diffground.segmenters.instance import InstanceSegmenter
from diffground.segmenters.vit import VitDescriptors
from diffground.store.manifest import fingerprint


@dataclass(frozen=True)
class Bench:
    """What methods are opened with.

    Attributes:
        tokens: what was learned of a query's item.
        models: folders of other models, by their part: "clip", "segmenter", "vit".
        words: gets the words that are learned in CLIP's vocabulary.
    """

    config: PersonalizedConfig
    frozen: Frozen
    tokens: Callable[[Query], PersonalToken]
    models: Mapping[str, Path] = field(default_factory=dict)
    words: Path | None = None

    @cached_property
    def localiser(self) -> Localiser:
        """The frozen model under the experiment's settings."""
        return Localiser(self.frozen.model, self.config.localiser)

    def selfcross(self, asks: Asks) -> SelfCrossMethod:
        """The localiser under a kind of query."""
        return SelfCrossMethod(self.localiser, self.tokens, asks)

    @property
    def regions(self) -> Method:
        """The segments of Ours, for methods that have none of their own."""
        return self.selfcross("context")

    @cached_property
    def clip(self) -> Contrastive:
        """CLIP, on the frozen model's device."""
        return Contrastive.from_pretrained(self.models["clip"], device=self.frozen.model.device)

    @cached_property
    def palavra(self) -> PalavraWords:
        """The items' words in CLIP's vocabulary."""
        assert self.words is not None, "a folder for the words"
        return PalavraWords(self.clip, self.config.baselines.palavra, self.words)

    @property
    def table(self) -> Tensor:
        """The embeddings of the frozen model's vocabulary, (V, C)."""
        encoder: Any = self.frozen.model.text_encoders[0]
        return cast(Tensor, encoder.get_input_embeddings().weight)


@dataclass(frozen=True)
class Kind:
    """A method: how it is opened, and what its answers depend on beside the localiser.

    Attributes:
        learns: whether it reads the items' learned tokens.
        models: parts of :attr:`Bench.models` that it reads.
        code: modules with a code version of their own.
        settings: JSON-ready, of its own.
    """

    open: Callable[[Bench], Method]
    learns: bool = False
    models: tuple[str, ...] = ()
    code: tuple[ModuleType, ...] = ()
    settings: Callable[[PersonalizedConfig], dict[str, Any]] = lambda _: {}


class Chance:
    """A control: the segments of Ours, and relevances that are drawn."""

    def __init__(self, regions: Method) -> None:
        self.regions = regions

    def segments(
        self, image: NDArray[np.uint8], queries: Sequence[Query], *, item: str, seed: int
    ) -> NDArray[np.bool_]:
        """Those of ``regions``."""
        return self.regions.segments(image, queries, item=item, seed=seed)

    def relevance(
        self,
        image: NDArray[np.uint8],
        segments: NDArray[np.bool_],
        queries: Sequence[Query],
        *,
        item: str,
        seed: int,
    ) -> NDArray[np.float64]:
        """Uniform in [0, 1), by ``(seed, item)`` and the query."""
        names = (f"chance {query.item} {query.context}" for query in queries)
        draws = (np.random.default_rng(derive_seed(seed, item, name)) for name in names)
        return np.stack([rng.random(len(segments)) for rng in draws])


def _detector(bench: Bench) -> Method:
    device = bench.frozen.model.device
    segmenter = InstanceSegmenter.from_pretrained(bench.models["segmenter"], device=device)
    return DetectorFeatures(segmenter, bench.config.baselines.detector)


def _descriptors(bench: Bench) -> Method:
    vit = VitDescriptors.from_pretrained(bench.models["vit"], device=bench.frozen.model.device)
    return DenseDescriptors(vit, bench.regions, bench.config.baselines.descriptors)


def _arithmetic(bench: Bench) -> Method:
    settings = bench.config.baselines.arithmetic
    return Arithmetic(bench.frozen.model, bench.clip, bench.regions, settings)


def _palavra_clip_es(bench: Bench) -> Method:
    return ClipEs(bench.clip, bench.palavra, bench.regions, bench.config.baselines.clip_es)


def _custom_clip_es(bench: Bench) -> Method:
    def word(query: Query) -> Tensor:
        return carried(bench.tokens(query).embeddings[0], bench.table, bench.clip.table)

    return ClipEs(bench.clip, word, bench.regions, bench.config.baselines.clip_es)


def _palavra_selfcross(bench: Bench) -> Method:
    model = bench.frozen.fingerprint

    def token(query: Query) -> PersonalToken:
        return bench.palavra.token_for(query, bench.table, model)

    return SelfCrossMethod(bench.localiser, token, "both")


def _settings(*names: str) -> Callable[[PersonalizedConfig], dict[str, Any]]:
    """The settings of some baselines, by their names."""
    return lambda config: {n: getattr(config.baselines, n).key_content() for n in names}


METHODS: Final[dict[MethodName, Kind]] = {
    "ours": Kind(lambda bench: bench.selfcross("both"), learns=True),
    "subject": Kind(lambda bench: bench.selfcross("subject"), learns=True),
    "context": Kind(lambda bench: bench.selfcross("context")),
    "chance": Kind(lambda bench: Chance(bench.regions)),
    "detector": Kind(
        _detector, models=("segmenter",), code=(detector,), settings=_settings("detector")
    ),
    "descriptors": Kind(
        _descriptors, models=("vit",), code=(descriptors,), settings=_settings("descriptors")
    ),
    "arithmetic": Kind(
        _arithmetic,
        models=("clip",),
        code=(arithmetic, contrastive),
        settings=_settings("arithmetic"),
    ),
    "palavra+clip_es": Kind(
        _palavra_clip_es,
        models=("clip",),
        code=(clip_es, contrastive, palavra),
        settings=_settings("clip_es", "palavra"),
    ),
    "custom+clip_es": Kind(
        _custom_clip_es,
        learns=True,
        models=("clip",),
        code=(clip_es, contrastive),
        settings=_settings("clip_es"),
    ),
    "palavra+selfcross": Kind(
        _palavra_selfcross,
        models=("clip",),
        code=(contrastive, palavra),
        settings=_settings("palavra"),
    ),
}


def kind_of(name: MethodName) -> Kind:
    """A method by its name; InputError for one that is not built."""
    if name not in METHODS:
        reason = f"{name!r} is not built; there are {', '.join(METHODS)}"
        raise InputError("personalized", "method", reason)
    return METHODS[name]


def method_recipe(bench: Bench) -> dict[str, Any]:
    """All that a method's answers depend on, but for the scenes and what was learned of items."""
    config = bench.config
    kind = kind_of(config.method)
    return {
        "code": code_of(of_frozen, aggregate, spectral, of_localiser, *kind.code),
        "method": config.method,
        "model": bench.frozen.fingerprint,
        "precision": config.precision,
        "seed": config.seed,
        "localiser": config.localiser.key_content(),
        "settings": kind.settings(config),
        "models": {part: fingerprint(bench.models[part]) for part in kind.models},
    }
