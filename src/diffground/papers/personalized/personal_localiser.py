"""From a few photos of a thing to where it is in a picture (From Text to Mask, 002, §5.3).

localiser = PersonalLocaliser.from_pretrained("data/06_models/mini-sd")
localiser.learn(photos, "mug")  # its name is <new1>
result = localiser("scene.jpg", ["<new1> filled with cola"])
result.overlay().save("overlay.png")

``Q`` queries · ``S`` segments · ``H, W`` pixels of the image
"""

from __future__ import annotations

import re
import tempfile
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Self

import numpy as np
import torch
from numpy.typing import NDArray

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.personal import PersonalToken, check_fit
from diffground.errors import InputError
from diffground.io.images import ImageSource, read_image
from diffground.masks.phrase_masks import PhraseMasks
from diffground.metrics.assignment import NOBODY, answers
from diffground.papers.personalized.config import PersonalLocaliserConfig
from diffground.papers.personalized.localiser import Localiser
from diffground.papers.personalized.queries import Query
from diffground.papers.personalized.selfcross_rows import SelfCrossMethod
from diffground.papers.personalized.token_learning import learn


@dataclass(frozen=True, eq=False, repr=False, kw_only=True)
class PersonalMasks(PhraseMasks):
    """What was found in one image. A query without a segment has an empty mask and no score.

    ``scores`` are the mean attention in the segments, 0 to 1. Where every query got the best of a
    poor choice, they say little: look at ``segments`` too.
    """

    segments: NDArray[np.bool_]  # (S, H, W), that the queries chose from
    relevance: NDArray[np.float64]  # (Q, S), mean attention; NaN: of another class

    @property
    def maps(self) -> NDArray[np.float32]:
        """Each query's :attr:`relevance` in the segments (Q, H, W), 0 outside of them."""
        relevance = np.nan_to_num(self.relevance).astype(np.float32)
        found: NDArray[np.float32] = np.einsum("qs,shw->qhw", relevance, self.segments)
        return found


class PersonalLocaliser:
    """A frozen diffusion model, and the things that it has learned."""

    def __init__(
        self, model: FrozenDiffusion, config: PersonalLocaliserConfig | None = None
    ) -> None:
        self.model = model
        self.config = PersonalLocaliserConfig() if config is None else config
        self.tokens: dict[str, PersonalToken] = {}  # by their names

    def __repr__(self) -> str:
        known = [f"{token.token} {token.word}" for token in self.tokens.values()]
        things = ", ".join(known) or "nothing learned yet"
        return f"<PersonalLocaliser in {self.model.folder.name}: {things}>"

    @classmethod
    def from_pretrained(
        cls,
        folder: str | Path,
        *,
        config: PersonalLocaliserConfig | None = None,
        device: str | torch.device = "cpu",
        dtype: torch.dtype = torch.float32,
    ) -> Self:
        """From a local folder in diffusers layout, SD 1.x, 2.x or SDXL.

        Args:
            config: None takes the settings that lie in the folder, see
                :meth:`PersonalLocaliserConfig.of`.
        """
        model = FrozenDiffusion.from_pretrained(folder, device=device, dtype=dtype)
        return cls(model, PersonalLocaliserConfig.of(folder) if config is None else config)

    def learn(
        self,
        photos: Sequence[ImageSource],
        word: str,
        *,
        token: str = "<new1>",
        folder: str | Path | None = None,
    ) -> Self:
        """Learns a thing from photos of it, five or so, and takes it among :attr:`tokens`.

        ``localiser.tokens["<new1>"].save("my-mug")`` keeps it for :meth:`wear`.

        Args:
            photos: files, Pillow pictures or arrays, of any sides; the thing should be what they
                are about. One that cannot be read is named and skipped.
            word: what it is, "mug".
            token: what queries are to call it.
            folder: of the training's checkpoints and the pictures of the class: a run that is
                killed goes on there, and other things of the class share the pictures. None keeps
                nothing.

        Raises:
            InputError: no photo can be read, or the token's name is taken.
        """
        self._check_name(token)
        if folder is not None:
            learned = self._learn(photos, word, token, Path(folder))
        else:
            with tempfile.TemporaryDirectory() as place:
                learned = self._learn(photos, word, token, Path(place))
        self.tokens[token] = learned
        return self

    def wear(self, *folders: str | Path) -> Self:
        """Takes things that were learned earlier among :attr:`tokens`, from their folders.

        Raises InputError for a folder that holds no token, one that another model learned, and a
        name that is taken.
        """
        for folder in folders:
            token = PersonalToken.load(folder)
            self._check_name(token.token)
            check_fit(self.model, token)
            self.tokens[token.token] = token
        return self

    def __call__(
        self,
        image: ImageSource,
        queries: Sequence[str],
        *,
        together: bool = True,
        item: str = "image",
        seed: int = 42,
    ) -> PersonalMasks:
        """Where each thing is in an image: a file, a Pillow picture, or an array.

        Args:
            queries: each with one learned token: "<new1> filled with cola". The class word follows
                the token and need not be said.
            together: the queries share the segments out, and no two get the same (af_acc in the
                paper); otherwise each takes its best (bf_acc).
            item: decides the noise, with ``seed``.

        Raises:
            InputError: the image cannot be read, or a query names no learned token, or several.
        """
        if isinstance(queries, str) or not queries:
            raise InputError("queries", "queries", f"a list of queries is needed, not {queries!r}")
        pixels = read_image(image)
        asked = [self.query(text) for text in queries]
        height, width = pixels.shape[:2]
        segments = np.zeros((0, height, width), dtype=bool)
        relevance = np.zeros((len(asked), 0))
        chosen = np.full(len(asked), NOBODY)
        method = SelfCrossMethod(
            Localiser(self.model, self.config.localiser), lambda q: self.tokens[q.token], "both"
        )
        for word in dict.fromkeys(query.word for query in asked):
            places = [place for place, query in enumerate(asked) if query.word == word]
            mine = [asked[place] for place in places]
            # Of several words each has a pass of its own, under the same noise.
            name = f"{item} {word}"
            found = method.segments(pixels, mine, item=name, seed=seed)
            table = method.relevance(pixels, found, mine, item=name, seed=seed)
            best = answers(table, found, together=together)
            chosen[places] = np.where(best == NOBODY, NOBODY, best + len(segments))
            wide = np.full((len(asked), len(found)), np.nan)
            wide[places] = table
            relevance = np.concatenate([relevance, wide], axis=1)
            segments = np.concatenate([segments, found])
        nothing = np.zeros((height, width), dtype=bool)
        return PersonalMasks(
            image=pixels,
            phrases=tuple(queries),
            masks=np.stack([nothing if s == NOBODY else segments[s] for s in chosen]),
            scores=tuple(
                None if s == NOBODY else round(float(relevance[q, s]), 4)
                for q, s in enumerate(chosen)
            ),
            score="mean attention in the segment",
            segments=segments,
            relevance=relevance,
        )

    def query(self, text: str) -> Query:
        """What a text asks: "<new1> filled with cola" is "a <new1> mug filled with cola".

        Raises InputError for a text that names no learned token, several, or one twice.
        """
        named = [name for name in self.tokens for _ in range(text.count(name))]
        if len(named) != 1:
            known = ", ".join(self.tokens) or "nothing was learned yet: see learn and wear"
            reason = f"it names {len(named) or 'none'} of the learned tokens ({known}), not one"
            raise InputError(text, "query", reason)
        token = self.tokens[named[0]]
        before, _, after = text.partition(token.token)
        after = re.sub(rf"^\s+{re.escape(token.word)}(?!\w)", "", after)
        context = f"{before or 'a '}{token.word}{after}".strip()
        return Query(token.token, token.token, token.word, context)

    def _learn(
        self, photos: Sequence[ImageSource], word: str, token: str, folder: Path
    ) -> PersonalToken:
        settings, prior = self.config.learning, folder / "class_pictures"
        place = folder / re.sub(r"\W+", "", token)
        return learn(self.model, photos, word, settings, place, token=token, prior=prior)

    def _check_name(self, token: str) -> None:
        if token in self.tokens:
            reason = f"{token} is a {self.tokens[token].word} already; give another name"
            raise InputError("tokens", "token", reason)
