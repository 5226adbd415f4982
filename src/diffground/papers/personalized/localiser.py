"""Finds objects in a scene by tokens and words: area, segments, and a map for every query (§5.3).

localiser = Localiser(model, LocaliserConfig())
scene = localiser.look(image, "mug", item="scene01/000", seed=0)  # one pass, shared by all queries
segments = localiser.segments(scene, asked=3)
with worn(model, [token]):
    maps = localiser.maps(scene, [localiser.prompt("a <new1> mug filled with cola", "<new1> mug")])
relevance = mean_inside(maps, segments)

The self-attention comes of the one pass that finds the object area, "A photo including mug.", under
the same noise; a query's pass gives its Cross alone and so ends after the last cross layer that is
read. The paper does not say which pass it takes Self from.

``D`` noises · ``Q`` queries · ``S`` segments · ``N`` pixels = h·w of the self layer's grid ·
``H, W`` pixels of the image
"""

from __future__ import annotations

import logging
import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffground.attention.aggregate import background_score, layers_read, spread
from diffground.attention.preprocess import Geometry, prepare
from diffground.attention.presence import neutral_tokens, presence
from diffground.attention.queries import Phrase, Prompt, Vocabulary, compose
from diffground.attention.selfcross import aggregate_cross
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.probe import ProbeRequest, ProbeResult
from diffground.errors import InputError
from diffground.masks.spectral import divide_area
from diffground.papers.personalized.config import LocaliserConfig
from diffground.seeds import derive_seed

# Raised when the same model, scene and words give other segments or maps, here or in what the
# attention's and the masks' code versions do not say.
CODE_VERSION: Final = 1

log = logging.getLogger(__name__)

#: Words that name neither a thing nor a property; `read: content` leaves them out.
FUNCTION_WORDS: Final = frozenset(
    "a an the and or of with in on at to by from next beside near under behind over into "
    "is are filled standing lying".split()
)


@dataclass(frozen=True)
class Scene:
    """What one pass over a scene gave, for all that is asked of it.

    Attributes:
        noisy: latents ``(D, 4, h', w')`` under each noise.
        self_maps: ``(D, N, N)``, rows sum to 1.
        size: ``(h, w)`` of their grid.
        objects: SelfCross of the class, ``(D, h, w)`` in [0, 1].
        geometry: the sizes of the image on its way to the model.
        presence: how much of the class there is, see :mod:`diffground.attention.presence`.
        seed: that k-means starts from.
    """

    noisy: Tensor
    self_maps: Tensor
    size: tuple[int, int]
    objects: Tensor
    geometry: Geometry
    presence: float
    seed: int


class Localiser:
    """A frozen model and the settings under which scenes are looked at."""

    def __init__(self, model: FrozenDiffusion, config: LocaliserConfig) -> None:
        self.model, self.config = model, config
        self.layers = layers_read(model, config.attention)

    @torch.no_grad()
    def look(self, image: NDArray[np.uint8], word: str, *, item: str, seed: int) -> Scene:
        """Looks for the objects of a class in a scene, uint8 RGB ``(H, W, 3)`` of any sides.

        ``(seed, item)`` decides the noises. Wear no token meanwhile. Something is found in every
        image; where the class is probably not there a warning says so. Raises InputError for a
        class word without a token, and for an image of another form.
        """
        attention = self.config.attention
        pixels, geometry = prepare(self.model, image, attention.compat, attention.long_side)
        latents = self.model.encode_images(pixels, seeds=[derive_seed(seed, item, "vae")])
        seeds = [derive_seed(seed, item, f"noise {draw}") for draw in range(attention.noises)]
        noisy = self.model.add_noise(latents, attention.timestep, seeds)
        words = Vocabulary.from_names([word]).model_copy(update={"lead": self.config.lead})
        (prompt,) = compose(
            words,
            [word],
            style="composed",
            background=False,
            synonyms=False,
            compat=attention.compat,
            room=self.model.token_room,
        )
        request = ProbeRequest(cross=self.layers.cross, self_=(self.layers.self_layer,))
        result, tokens, others = self._probed(noisy, prompt, request)
        self_maps = result.self_[self.layers.self_layer]
        size = result.sizes[self.layers.self_layer]
        objects = self._spread(result, tokens, self_maps, size)
        there = self._presence(result, tokens, others, size)
        if there < self.config.doubt_below:
            log.warning(
                "%s: probably no %s in the image (presence %.1f, below %g); something is found all "
                "the same", item, word, there, self.config.doubt_below,
            )  # fmt: skip
        starts = derive_seed(seed, item, "segments")
        return Scene(noisy, self_maps, size, objects, geometry, there, starts)

    def scores(self, scene: Scene) -> Tensor:
        """The background's score and the class's on the grid, (2, h, w), as §5.1 scores them."""
        attention = self.config.attention
        mean = scene.objects.mean(dim=0, keepdim=True)
        peaks = scene.objects if attention.averages_masks else mean
        background = background_score(peaks, attention.thresholds[1], attention.background_power)
        return torch.cat([background[None], mean])

    def segments(self, scene: Scene, *, asked: int) -> NDArray[np.bool_]:
        """The parts of the object area from left to right, bool ``(S, H, W)``.

        The grid's segments are enlarged like maps and share the pixels where the enlarged class
        scores higher than the background. ``asked`` objects are looked for, see
        :attr:`~diffground.masks.config.SpectralConfig.segments`.
        """
        compat, scores = self.config.attention.compat, self.scores(scene)
        area = (scores[1] > scores[0]).numpy()
        self_map = scene.self_maps.mean(dim=0).float().cpu().numpy()
        settings = self.config.segments
        grid = divide_area(self_map, area, settings, asked=asked, seed=scene.seed)
        height, width = scene.geometry.original
        count = int(grid.max())
        if not count:
            return np.zeros((0, height, width), dtype=bool)
        parts = torch.from_numpy(np.stack([grid == label for label in range(1, count + 1)])).float()
        shares = scene.geometry.to_image(parts, compat).numpy()  # (S, H, W)
        background, of_class = scene.geometry.to_image(scores, compat).numpy()
        inside = (of_class > background) & (shares.max(axis=0) > 0)
        mine = shares.argmax(axis=0)
        return np.stack([inside & (mine == number) for number in range(count)])

    def prompt(self, text: str, subject: str) -> Prompt:
        """A query's sentence, and which of its words are read, see :attr:`LocaliserConfig.read`.

        Args:
            text: "a <new1> mug filled with cola".
            subject: the part that names the object, "<new1> mug" or "mug".
        """
        start = text.find(subject)
        if start < 0:
            raise InputError(text, "query", f"{subject!r} does not stand in it")
        if self.config.read == "subject":
            return Prompt(text, (Phrase("query", ((start, start + len(subject)),)),))
        words = [match.span() for match in re.finditer(r"[^\s,.]+", text)]
        if self.config.read == "content":
            words = [(a, b) for a, b in words if text[a:b].lower() not in FUNCTION_WORDS]
        return Prompt(text, (Phrase("query", tuple(words)),))

    @torch.no_grad()
    def maps(self, scene: Scene, prompts: Sequence[Prompt]) -> NDArray[np.float32]:
        """SelfCross of each prompt over the image, ``(Q, H, W)`` in [0, 1].

        The model may wear tokens meanwhile. Raises InputError for a prompt that is longer than the
        text encoder reads.
        """
        request = ProbeRequest(cross=self.layers.cross)
        found = []
        for prompt in prompts:
            result, tokens, _ = self._probed(scene.noisy, prompt, request)
            found.append(self._spread(result, tokens, scene.self_maps, scene.size).mean(dim=0))
        maps = torch.stack(found)
        large: NDArray[np.float32] = scene.geometry.to_image(
            maps, self.config.attention.compat
        ).numpy()
        return large

    def _probed(
        self, noisy: Tensor, prompt: Prompt, request: ProbeRequest
    ) -> tuple[ProbeResult, list[int], list[int]]:
        """A pass under every noise, the tokens that are read, and those of the other words."""
        encoding = self.model.encode_prompts([prompt.text])
        result = self.model.probe(
            noisy,
            self.config.attention.timestep,
            encoding.embeddings,
            request,
            pooled=encoding.pooled,
        )
        (phrase,) = prompt.phrases
        tokens = {token for span in phrase.spans for token in encoding.token_indices(0, span)}
        return result, sorted(tokens), neutral_tokens(encoding.offsets[0], phrase.spans)

    def _presence(
        self, result: ProbeResult, tokens: list[int], others: list[int], size: tuple[int, int]
    ) -> float:
        """The mean of the noises."""
        maps = [
            aggregate_cross(result.item(draw), self.layers.cross, [tokens, others], size)
            for draw in range(self.config.attention.noises)
        ]
        return float(torch.stack([presence(each[:1], each[1:]) for each in maps]).mean())

    def _cross(
        self, result: ProbeResult, draw: int, tokens: list[int], size: tuple[int, int]
    ) -> Tensor:
        return aggregate_cross(result.item(draw), self.layers.cross, [tokens], size)

    def _spread(
        self, result: ProbeResult, tokens: list[int], self_maps: Tensor, size: tuple[int, int]
    ) -> Tensor:
        """SelfCross of one prompt under each noise, ``(D, h, w)`` on the CPU."""
        maps = [
            spread(self_map, self._cross(result, draw, tokens, size), self.config.attention)
            for draw, self_map in enumerate(self_maps)
        ]
        return torch.cat(maps).float().cpu()


def mean_inside(maps: NDArray[np.floating], segments: NDArray[np.bool_]) -> NDArray[np.float64]:
    """The mean of each map ``(Q, H, W)`` in each segment ``(S, H, W)``: ``(Q, S)``; 0 in one
    without a pixel."""
    sizes = segments.sum(axis=(1, 2))
    pixels = segments.shape[1] * segments.shape[2]
    sums = maps.reshape(len(maps), pixels).astype(np.float64) @ segments.reshape(-1, pixels).T
    return np.asarray(sums / np.maximum(sizes, 1))
