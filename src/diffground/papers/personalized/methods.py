"""What a row of Tables 7, B.9 and B.10 is: something that divides a scene and compares (002, §5.3).

How objects are assigned to segments, and how answers are judged, is the same for all of them, see
:mod:`diffground.metrics.assignment`.

``S`` segments · ``Q`` queries · ``H, W`` pixels of the scene
"""

from __future__ import annotations

from collections.abc import Sequence
from typing import Protocol

import numpy as np
from numpy.typing import NDArray

from diffground.papers.personalized.queries import Query


class Method(Protocol):
    """One way to find personal objects in a scene.

    A scene is an RGB image, uint8 ``(H, W, 3)`` of any sides, with a name; ``(seed, item)`` decides
    all that is random in it. ``queries``, at least one, share their class word. Both verbs are
    asked for the same scene one after the other, so that what is costly may be kept between them.
    """

    def segments(
        self, image: NDArray[np.uint8], queries: Sequence[Query], *, item: str, seed: int
    ) -> NDArray[np.bool_]:
        """The regions that may be objects, bool ``(S, H, W)``; none overlap, and S may be 0.

        ``queries``: one for each object of the scene.
        """
        ...

    def relevance(
        self,
        image: NDArray[np.uint8],
        segments: NDArray[np.bool_],
        queries: Sequence[Query],
        *,
        item: str,
        seed: int,
    ) -> NDArray[np.float64]:
        """How much each segment is what each query asks for, ``(Q, S)``; higher is nearer."""
        ...
