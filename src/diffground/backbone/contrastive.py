"""CLIP, with words of one's own: sentences and images in one space.

clip = Contrastive.from_pretrained("data/06_models/mini-clip")
clip.texts(["a <new1> mug"], {"<new1>": vector}) @ clip.images([photo]).T

``C`` channels of the text encoder · ``V`` tokens of its vocabulary · ``P`` channels of the space
"""

from __future__ import annotations

import re
from collections.abc import Iterator, Mapping, Sequence
from contextlib import contextmanager
from functools import cached_property
from pathlib import Path
from typing import Any, Final, Self, cast

import numpy as np
import torch
from numpy.typing import NDArray
from torch import Tensor, nn
from torch.nn import functional
from transformers import CLIPModel, CLIPProcessor

from diffground.backbone.folder import check_tokenizer, check_vocabulary, loading
from diffground.errors import InputError, shortened
from diffground.io.files import check_sums
from diffground.store.manifest import fingerprint

# Raised when the same sentences or pictures, or words of another table, come out otherwise.
CODE_VERSION: Final = 1

OWN: Final = 0  # id that holds an own word's place until its vector is put there


class Contrastive:
    """A CLIP folder of transformers. Nothing of it is trained; gradients flow to own words."""

    def __init__(self, model: CLIPModel, processor: CLIPProcessor, folder: Path) -> None:
        self.model = model.eval().requires_grad_(False)
        parts: Any = processor
        self.tokenizer, self.processor = parts.tokenizer, parts.image_processor
        self.folder = folder

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Loads a local folder; InputError if it, or a part of it, is not there or damaged.

        Attention is computed step by step: CLIP-ES reads it.
        """
        folder = Path(folder)
        for name in ("config.json", "model.safetensors", "tokenizer_config.json"):
            if not (folder / name).is_file():
                raise InputError(folder, name, "CLIP's folder lacks it")
        check_tokenizer(folder, "")
        check_sums(folder, "fetch the folder again, or `git checkout -- <folder>` if it is tracked")
        with loading(folder):
            model = CLIPModel.from_pretrained(
                folder,
                local_files_only=True,
                use_safetensors=True,
                dtype=torch.float32,
                attn_implementation="eager",
            )
            processor = CLIPProcessor.from_pretrained(folder, local_files_only=True)
        made = cls(model.to(device), processor, folder)
        check_vocabulary(made.tokenizer, model.config.text_config.vocab_size)
        return made

    @cached_property
    def fingerprint(self) -> str:
        """A hash of the folder's weights and configuration."""
        return fingerprint(self.folder)

    @property
    def device(self) -> torch.device:
        """Where the networks are."""
        return self.model.device

    @property
    def table(self) -> Tensor:
        """The vocabulary's embeddings before the text encoder, (V, C)."""
        return cast(Tensor, self._embedding.weight)

    @property
    def _embedding(self) -> nn.Module:
        text: Any = self.model.text_model
        return cast(nn.Module, text.get_input_embeddings())

    def word(self, text: str) -> Tensor:
        """The mean embedding of a word's tokens, (C,); InputError for one without any."""
        ids = self.tokenizer(text, add_special_tokens=False).input_ids
        if not ids:
            raise InputError("CLIP", "word", f"the tokenizer has no token for {shortened(text)}")
        return self.table[torch.tensor(ids, device=self.device)].mean(0)

    def texts(self, texts: Sequence[str], own: Mapping[str, Tensor] | None = None) -> Tensor:
        """Sentences in CLIP's space, (T, P), as CLIP's projection gives them.

        Args:
            own: words that the vocabulary lacks, as they stand in the sentences, and the embedding
                (C,) of each. Gradients flow to them.

        Raises:
            InputError: a sentence is longer than the text encoder reads, or an embedding is of
                another width.
        """
        own = own or {}
        width = self.table.shape[1]
        for name, vector in own.items():
            if tuple(vector.shape) != (width,):
                reason = (
                    f"{name} has shape {tuple(vector.shape)}, the text encoder reads ({width},)"
                )
                raise InputError(self.folder, "embedding", reason)
        rows = [self._ids(text, own) for text in texts]
        with self._with(own, [places for _, places in rows]):
            return self._encoded([ids for ids, _ in rows])

    @torch.no_grad()
    def tokens(self, ids: Sequence[int]) -> Tensor:
        """Tokens of the vocabulary in CLIP's space, each as a sentence of itself alone, (T, P)."""
        begin, end = int(self.tokenizer.bos_token_id), int(self.tokenizer.eos_token_id)
        return self._encoded([[begin, each, end] for each in ids])

    def _encoded(self, rows: Sequence[list[int]]) -> Tensor:
        longest, padding = max(map(len, rows)), [int(self.tokenizer.pad_token_id)]
        ids = torch.tensor([row + padding * (longest - len(row)) for row in rows])
        # Padding comes after the end, where a causal network's answer is read: it is not seen.
        output: Any = self.model.get_text_features(ids.to(self.device))
        return cast(Tensor, output.pooler_output)

    @torch.no_grad()
    def images(self, images: Sequence[NDArray[np.uint8]]) -> Tensor:
        """Images, uint8 RGB (H, W, 3), in CLIP's space, (B, P): their middle squares, resized."""
        pixels = [
            self.processor(images=image, return_tensors="pt")["pixel_values"] for image in images
        ]
        output: Any = self.model.get_image_features(torch.cat(pixels).to(self.device))
        return cast(Tensor, output.pooler_output)

    def _ids(self, text: str, own: Mapping[str, Tensor]) -> tuple[list[int], list[tuple[int, str]]]:
        """A sentence's tokens, and the place of each own word among them."""
        pieces = re.split("(" + "|".join(map(re.escape, own)) + ")", text) if own else [text]
        ids, places = [int(self.tokenizer.bos_token_id)], []
        for piece in pieces:
            if piece in own:
                places.append((len(ids), piece))
                ids.append(OWN)
            else:
                ids += self.tokenizer(piece, add_special_tokens=False, verbose=False).input_ids
        ids.append(int(self.tokenizer.eos_token_id))
        limit = int(self.model.config.text_config.max_position_embeddings)
        if len(ids) > limit:
            reason = f"{len(ids)} tokens, but the text encoder reads {limit}: {shortened(text)}"
            raise InputError("prompt", "length", reason)
        return ids, places

    @contextmanager
    def _with(
        self, own: Mapping[str, Tensor], places: Sequence[Sequence[tuple[int, str]]]
    ) -> Iterator[None]:
        """Within it the text encoder reads own words at their ``places`` in each sentence."""

        def put(module: nn.Module, inputs: Any, output: Tensor) -> Tensor:
            output = output.clone()
            for row, found in enumerate(places):
                for place, name in found:
                    output[row, place] = own[name].to(output)
            return output

        handle = self._embedding.register_forward_hook(put)
        try:
            yield
        finally:
            handle.remove()


def carried(vector: Tensor, source: Tensor, target: Tensor) -> Tensor:
    """A word's embedding, taken from one text encoder's table to another's of the same vocabulary.

    By the affine map that takes the tables nearest to each other (least squares over all tokens),
    which leaves a word as it is between equal tables, as CLIP's and Stable Diffusion 1.x's are.

    Args:
        vector: (C,), a row that ``source`` might have.
        source, target: (V, C) and (V, D), the same token in the same row.

    Returns:
        (D,), in float32.

    Raises:
        InputError: the tables have different numbers of tokens.
    """
    if len(source) != len(target):
        reason = f"{len(source)} tokens in one, {len(target)} in the other: words have no partners"
        raise InputError("text encoders", "vocabulary", reason)
    if source.shape == target.shape and torch.equal(source.cpu(), target.cpu()):
        return vector.float()
    return fitted(source, target)(vector[None])[0]


def fitted(source: Tensor, target: Tensor, ridge: float = 0.0) -> Any:
    """The affine map of (N, C) rows that comes nearest to (N, D) rows: least squares.

    ``ridge`` is what is added to the diagonal of the normal equations, as a share of its mean.
    Returns a function of (M, C), in float32 on the CPU; solved in float64.
    """
    left, right = source.detach().cpu().double(), target.detach().cpu().double()
    centre, offset = left.mean(0), right.mean(0)
    x = left - centre
    gram = x.T @ x
    gram += ridge * gram.diagonal().mean() * torch.eye(len(gram), dtype=gram.dtype)
    weights = torch.linalg.lstsq(gram, x.T @ (right - offset), driver="gelsd").solution
    return lambda rows: ((rows.detach().cpu().double() - centre) @ weights + offset).float()


def unit(vectors: Tensor) -> Tensor:
    """Each of (..., P) with length 1."""
    return functional.normalize(vectors, dim=-1)
