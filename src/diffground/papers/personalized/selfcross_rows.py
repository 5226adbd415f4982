"""Ours, Subject only and Context only: the localiser under three kinds of queries (002, §5.3)."""

from __future__ import annotations

from collections.abc import Callable, Sequence
from contextlib import nullcontext
from typing import Literal

import numpy as np
from numpy.typing import NDArray

from diffground.attention.queries import Prompt
from diffground.backbone.personal import PersonalToken, worn
from diffground.papers.personalized.localiser import Localiser, Scene, mean_inside
from diffground.papers.personalized.queries import Query

#: What a query says: "a <new1> mug filled with cola", "a <new1> mug", "a mug filled with cola".
Asks = Literal["both", "subject", "context"]


class SelfCrossMethod:
    """See :class:`~diffground.papers.personalized.methods.Method`."""

    def __init__(
        self, localiser: Localiser, tokens: Callable[[Query], PersonalToken], asks: Asks
    ) -> None:
        """``tokens`` gives what was learned of a query's item; "context" asks for none."""
        self.localiser, self.asks = localiser, asks
        self._tokens = tokens
        self._seen: tuple[tuple[str, int], NDArray[np.uint8], Scene] | None = None

    def segments(
        self, image: NDArray[np.uint8], queries: Sequence[Query], *, item: str, seed: int
    ) -> NDArray[np.bool_]:
        """The parts of the area of the queries' class."""
        scene = self._look(image, queries, item, seed)
        return self.localiser.segments(scene, asked=len(queries))

    def relevance(
        self,
        image: NDArray[np.uint8],
        segments: NDArray[np.bool_],
        queries: Sequence[Query],
        *,
        item: str,
        seed: int,
    ) -> NDArray[np.float64]:
        """The mean SelfCross of each query in each segment."""
        scene = self._look(image, queries, item, seed)
        maps = [self._map(scene, query) for query in queries]
        return mean_inside(np.stack(maps), segments)

    def _map(self, scene: Scene, query: Query) -> NDArray[np.float32]:
        prompt = self._prompt(query)
        token = None if self.asks == "context" else self._tokens(query)
        with nullcontext() if token is None else worn(self.localiser.model, [token]):
            return np.asarray(self.localiser.maps(scene, [prompt])[0])

    def _prompt(self, query: Query) -> Prompt:
        match self.asks:
            case "both":
                return self.localiser.prompt(query.description, f"{query.token} {query.word}")
            case "subject":
                return self.localiser.prompt(query.subject, f"{query.token} {query.word}")
            case "context":
                return self.localiser.prompt(query.context, query.word)

    def _look(
        self, image: NDArray[np.uint8], queries: Sequence[Query], item: str, seed: int
    ) -> Scene:
        """One pass a scene, kept until the next: both verbs and all queries share it."""
        if self._seen is None or self._seen[0] != (item, seed) or self._seen[1] is not image:
            scene = self.localiser.look(image, queries[0].word, item=item, seed=seed)
            self._seen = ((item, seed), image, scene)
        return self._seen[2]
