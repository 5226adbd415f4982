"""How good a picture looks to CLIP: nearer to "good photo." than to "bad photo." (CLIP-IQA).

The third paper takes the best 80 % of its test sets by CLIP-IQA+ (003, section 3.2), whose prompts
are learned vectors that belong to one CLIP. These are the words of CLIP-IQA, for any CLIP.
"""

from __future__ import annotations

from collections.abc import Sequence
from functools import cached_property
from pathlib import Path
from typing import Final

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffground.backbone import contrastive
from diffground.backbone.contrastive import Contrastive, unit
from diffground.backbone.on_demand import Frozen, Once
from diffground.errors import InputError
from diffground.io.files import read_json, write_json
from diffground.papers.grounded.data_config import ChoiceConfig, GroundingDataConfig, ScoringConfig
from diffground.papers.grounded.generation import shown
from diffground.papers.grounded.samples import REMEDY, SyntheticSet
from diffground.provenance import code_of
from diffground.store.items import Item, Summary
from diffground.store.manifest import config_hash, fingerprint, is_valid
from diffground.training.processes import chosen_device
from diffground.training.sharing import fill_together

# Raised when the same pictures get other scores.
CODE_VERSION: Final = 1


class Antonyms:
    """Judges pictures by pairs of texts, the better one first."""

    def __init__(self, clip: Contrastive, config: ScoringConfig) -> None:
        self.clip, self.config = clip, config

    @cached_property
    def _texts(self) -> Tensor:
        """(pairs, 2, P)."""
        texts = [text for pair in self.config.antonyms for text in pair]
        return unit(self.clip.texts(texts)).unflatten(0, (-1, 2))

    @torch.no_grad()
    def __call__(self, images: Sequence[NDArray[np.uint8]]) -> list[float]:
        """Of uint8 RGB images (H, W, 3), in [0, 1]: the softmax of the two, mean over the pairs."""
        seen = unit(self.clip.images(images))
        cosines = torch.einsum("bp,kcp->bkc", seen, self._texts)
        chances = (self.clip.model.logit_scale.exp() * cosines).softmax(-1)[..., 0]
        return [float(score) for score in chances.mean(-1)]


def score_set(
    synthetic: SyntheticSet, frozen: Frozen, clip: Path, root: Path, config: GroundingDataConfig
) -> Summary:
    """Scores the pictures of all kept samples, whatever is then taken of them.

    Below ``root`` is a folder for the set, with a file for each of its files: ``{id: score}``.
    """
    synthetic.check_model(frozen.fingerprint)
    recipe = {
        "code": {"scoring": CODE_VERSION, **code_of(contrastive)},
        "samples": synthetic.recipe,
        "clip": fingerprint(clip),
        "scoring": config.scoring.key_content(),
    }
    folder = root / f"{synthetic.folder.name}-{config_hash(recipe)[:12]}"
    parts = {path.stem: path for path in synthetic.parts}
    taken, _ = synthetic.chosen(ChoiceConfig(least_score=0, instances="first", top=1))
    by_part: dict[str, list[int]] = {part: [] for part in parts}
    for index, record in enumerate(taken.records):
        by_part[synthetic.part_of(record).stem].append(index)

    def opened() -> Antonyms:
        device = chosen_device(config.device)
        return Antonyms(Contrastive.from_pretrained(clip, device=device), config.scoring)

    judge = Once(opened)

    def make(part: str) -> dict[str, float]:
        samples = [taken[index] for index in by_part[part]]
        return {s.id: judge()([shown(frozen.model, s.picture)])[0] for s in samples}

    def finish(part: str, scores: dict[str, float]) -> None:
        write_json(folder / f"{part}.json", scores)

    items = [Item(part, (f"{part}.json",), None, {"part": path}) for part, path in parts.items()]
    return fill_together(folder, recipe, items, make, finish, what="scores of", work=config.work)


def read_scores(folder: Path) -> dict[str, float]:
    """The scores of a set by sample; InputError if they are not all there."""
    if not is_valid(folder):
        raise InputError(folder, "scores", f"they are not there, or not all of them: {REMEDY}")
    found: dict[str, float] = {}
    for path in sorted(folder.glob("part-*.json")):
        found |= read_json(path) or {}
    return found
