"""The row Arithmetic of Tables 7 and B.10: the class word becomes the mean of image and text.

SelfCross is asked with the class word's embedding "replaced with the average between CLIP image
embeddings of the instance and the CLIP text embedding of the class" (002, §5.3). These lie in
CLIP's common space, and the paper does not say how they come to where the UNet reads words, nor
where that is; :class:`~.config.ArithmeticConfig` has two readings.

``C`` channels of the diffusion model's text encoder · ``D`` of CLIP's · ``P`` of CLIP's space
"""

from __future__ import annotations

from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import replace
from functools import lru_cache
from pathlib import Path
from typing import Any, Final, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor

from diffground.backbone.contrastive import Contrastive, fitted, unit
from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.personal import PersonalToken, worn
from diffground.errors import InputError
from diffground.io.images import read_image
from diffground.papers.personalized.baselines.config import ArithmeticConfig
from diffground.papers.personalized.methods import Method
from diffground.papers.personalized.queries import Query

# Raised when the same pictures give other relevances.
CODE_VERSION: Final = 1

WORD: Final = "<mean>"  # stands for the class word, "a <mean> filled with cola"
WIDE_BATCH: Final = 256  # words of the vocabulary that are encoded at once


class Arithmetic:
    """A :class:`~.methods.Method`: SelfCross with another class word.

    Args:
        model: the diffusion model of ``context_only``.
        context_only: the row that asks with the context alone, see
            :class:`~.queries.Query`.

    Raises:
        InputError: the diffusion model has several text encoders, or CLIP does not go with it as
            ``config.place`` asks.
    """

    def __init__(
        self,
        model: FrozenDiffusion,
        clip: Contrastive,
        context_only: Method,
        config: ArithmeticConfig,
    ) -> None:
        if len(model.text_encoders) != 1:
            reason = f"{model.family} has several; SD 1.x and 2.x have one"
            raise InputError(model.folder, "text_encoder", reason)
        self.model, self.clip, self.row, self.config = model, clip, context_only, config
        self._to_place = to_context(model, clip) if config.place == "context" else to_tokens(
            model, clip, config.ridge
        )  # fmt: skip
        self._item = lru_cache(maxsize=None)(self._mean)

    def segments(
        self, image: NDArray[np.uint8], queries: Sequence[Query], *, item: str, seed: int
    ) -> NDArray[np.bool_]:
        """Those of SelfCross."""
        return self.row.segments(image, queries, item=item, seed=seed)

    def relevance(
        self,
        image: NDArray[np.uint8],
        segments: NDArray[np.bool_],
        queries: Sequence[Query],
        *,
        item: str,
        seed: int,
    ) -> NDArray[np.float64]:
        """SelfCross's, each query asked for by itself, for each has a class word of its own."""
        rows = []
        for query in queries:
            vector = self._item(query.pictures(), query.word)
            asked = replace(query, word=WORD, context=_renamed(query))
            with self.says(query.word, vector):
                rows.append(self.row.relevance(image, segments, [asked], item=item, seed=seed))
        return np.concatenate(rows)

    @contextmanager
    def says(self, word: str, vector: Tensor) -> Iterator[None]:
        """Within it the model reads :data:`WORD`: as ``word``, but with ``vector`` in its place."""
        before = class_row(self.model, word) if self.config.place == "context" else vector
        token = PersonalToken(WORD, word, (before,), {}, self.model.fingerprint())
        with worn(self.model, [token]):
            if self.config.place == "tokens":
                yield
                return
            mark = int(cast(Any, self.model.tokenizers[0]).convert_tokens_to_ids(WORD))
            with _state_of(self.model.text_encoders[0], mark, vector):
                yield

    def _mean(self, references: tuple[Path, ...], word: str) -> Tensor:
        """The mean of the pictures and the class in CLIP's space, brought to the place."""
        with torch.no_grad():
            text = self.clip.texts([word])
            pictures = unit(self.clip.images([read_image(path) for path in references]))
        # Both as directions; then of the text's length, which is what its place is used to.
        mean = (unit(pictures.mean(0, keepdim=True)) + unit(text)) / 2
        return cast(Tensor, self._to_place(mean * text.norm())[0])


def to_context(model: FrozenDiffusion, clip: Contrastive) -> Any:
    """From CLIP's space (n, P) to the states (n, C) behind the text encoder, which are CLIP's too.

    By the pseudo-inverse of the projection, which for CLIP ViT-L/14 (768 to 768) is its inverse:
    a text by itself becomes the state of its end token.

    Raises:
        InputError: the model's text encoder is not this CLIP's.
    """
    own = cast(Any, model.text_encoders[0]).get_input_embeddings().weight
    if own.shape != clip.table.shape or not torch.allclose(
        own.float().cpu(), clip.table.cpu(), atol=1e-3
    ):
        reason = (
            f"its text encoder is not that of {model.folder}, so its states mean nothing there; "
            "take the CLIP that the model was made with, or `place: tokens`"
        )
        raise InputError(clip.folder, "text_model", reason)
    back = torch.linalg.pinv(cast(Any, clip.model).text_projection.weight.double().cpu())
    return lambda rows: (rows.double().cpu() @ back.T).float()


@torch.no_grad()
def to_tokens(model: FrozenDiffusion, clip: Contrastive, ridge: float) -> Any:
    """From CLIP's space (n, P) to rows (n, C) of the table before the text encoder.

    By the affine map that takes what CLIP says of every token of the vocabulary, as a sentence of
    it alone, nearest to the token's row.

    Raises:
        InputError: the vocabularies have different numbers of tokens.
    """
    table = cast(Any, model.text_encoders[0]).get_input_embeddings().weight
    if len(table) != len(clip.table):
        reason = f"{len(clip.table)} tokens, but {model.folder} has {len(table)}"
        raise InputError(clip.folder, "vocabulary", reason)
    special = set(clip.tokenizer.all_special_ids)
    ids = [index for index in range(len(table)) if index not in special]
    said = torch.cat(
        [
            clip.tokens(ids[start : start + WIDE_BATCH]).cpu()
            for start in range(0, len(ids), WIDE_BATCH)
        ]
    )
    return fitted(said, table[torch.tensor(ids, device=table.device)], ridge)


def class_row(model: FrozenDiffusion, word: str) -> Tensor:
    """The mean of the rows of a word's tokens, (C,), in the model's table."""
    ids = cast(Any, model.tokenizers[0])(word, add_special_tokens=False).input_ids
    if not ids:
        raise InputError("query", "word", f"the tokenizer has no token for {word!r}")
    table = cast(Any, model.text_encoders[0]).get_input_embeddings().weight
    return cast(Tensor, table[torch.tensor(ids, device=table.device)].mean(0))


@contextmanager
def _state_of(encoder: Any, mark: int, vector: Tensor) -> Iterator[None]:
    """Within it the text encoder's last state of every token ``mark`` is ``vector``."""

    def put(module: Any, inputs: tuple[Tensor, ...], told: dict[str, Any], output: Any) -> Any:
        ids = inputs[0] if inputs else told["input_ids"]
        states = output.last_hidden_state.clone()
        states[ids == mark] = vector.to(states)
        output.last_hidden_state = states
        return output

    handle = encoder.register_forward_hook(put, with_kwargs=True)
    try:
        yield
    finally:
        handle.remove()


def _renamed(query: Query) -> str:
    """The context with :data:`WORD` for the class word, found as :func:`.queries.personal` does."""
    described = query.description  # complains of a context without the class word
    return described.replace(f"{query.token} {query.word}", WORD, 1)
