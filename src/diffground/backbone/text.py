"""Prompts to embeddings, and phrases to the mean of their tokens.

``B`` prompts · ``L`` tokens of a padded prompt · ``N`` phrases · ``C`` channels
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any, Literal

import torch
from torch import Tensor

from diffground.errors import InputError, shortened
from diffground.phrases.alignment import Span, token_indices

Overflow = Literal["error", "truncate"]


@dataclass(frozen=True)
class PromptEncoding:
    """Encoded prompts.

    ``embeddings`` (B, L, C); ``mask`` (B, L) is True for real tokens, SOS and EOS included;
    ``offsets`` has the ``(start, end)`` characters of each token, ``(0, 0)`` for SOS, EOS and
    padding; ``pooled`` (B, P) is SDXL's pooled text, else None.
    """

    prompts: tuple[str, ...]
    embeddings: Tensor
    mask: Tensor
    offsets: list[list[Span]]
    pooled: Tensor | None = None

    @classmethod
    def joined(cls, parts: Sequence[PromptEncoding]) -> PromptEncoding:
        """Several as one, of prompts that were each encoded by itself, say: batches round too."""
        pooled = [part.pooled for part in parts if part.pooled is not None]
        return cls(
            prompts=tuple(prompt for part in parts for prompt in part.prompts),
            embeddings=torch.cat([part.embeddings for part in parts]),
            mask=torch.cat([part.mask for part in parts]),
            offsets=[offsets for part in parts for offsets in part.offsets],
            pooled=torch.cat(pooled) if pooled else None,
        )

    def token_indices(self, item: int, span: Span) -> list[int]:
        """The tokens under a span of characters of prompt ``item``; see :func:`token_indices`."""
        return token_indices(self.prompts[item], self.offsets[item], span)

    def characters_read(self, item: int) -> int:
        """How many characters of prompt ``item`` have tokens: all of them, unless truncated."""
        whole = len(self.prompts[item])
        # The end token takes the last place; before it is padding, or the prompt was just as long.
        full = bool(self.mask[item].all())
        return max(end for _, end in self.offsets[item]) if full else whole


@dataclass(frozen=True)
class TokenRoom:
    """How many tokens texts have, and how many fit into a prompt.

    Attributes:
        count: the number of tokens of each of several texts, start and end token not counted.
        limit: the most that fit, beside the start and the end token (75 for CLIP).
    """

    count: Callable[[Sequence[str]], list[int]]
    limit: int

    @classmethod
    def of(cls, tokenizers: Sequence[Any], text_encoders: Sequence[Any]) -> TokenRoom:
        """A model's; where its two tokenizers differ (SDXL), the larger count and smaller limit."""
        positions = [int(encoder.config.max_position_embeddings) for encoder in text_encoders]
        limits = [*positions, *(int(t.model_max_length) for t in tokenizers)]

        def count(texts: Sequence[str]) -> list[int]:
            rows = [
                tokenizer(list(texts), add_special_tokens=False, verbose=False).input_ids
                for tokenizer in tokenizers
            ]
            return [max(map(len, column)) for column in zip(*rows, strict=True)]

        return cls(count, min(limits) - 2)


def tokenize(
    tokenizer: Any, prompts: Sequence[str], limit: int, overflow: Overflow
) -> tuple[Tensor, Tensor, list[list[Span]]]:
    """Ids (B, L), mask (B, L) and offsets of prompts padded to ``limit`` tokens.

    Raises :class:`InputError` for a prompt of more tokens than that, SOS and EOS included, unless
    ``overflow`` is "truncate".
    """
    if overflow == "error":
        for prompt, ids in zip(
            prompts, tokenizer(list(prompts), verbose=False).input_ids, strict=True
        ):
            if len(ids) > limit:
                raise InputError(
                    "prompt",
                    "length",
                    f"{len(ids)} tokens, but the text encoder reads {limit}: shorten the prompt, "
                    f'or pass overflow="truncate" to drop its end: {shortened(prompt)}',
                )
    batch = tokenizer(
        list(prompts),
        padding="max_length",
        truncation=True,
        max_length=limit,
        return_offsets_mapping=True,
        return_tensors="pt",
    )
    offsets = [[(int(a), int(b)) for a, b in item] for item in batch.offset_mapping]
    return batch.input_ids, batch.attention_mask.bool(), offsets


def encode(
    tokenizers: Sequence[Any],
    text_encoders: Sequence[Any],
    prompts: Sequence[str],
    overflow: Overflow,
) -> PromptEncoding:
    """Encodes prompts as the UNet was trained to read them.

    One encoder (SD 1.x, 2.x): its last hidden state, after the final norm. Two (SDXL): the
    second-to-last hidden states of both side by side, and the second's projection as ``pooled``.
    """
    if isinstance(prompts, str):
        raise InputError("prompt", "prompts", "a list of prompts is needed, not one string")
    encoded = []
    for tokenizer, encoder in zip(tokenizers, text_encoders, strict=True):
        limit = min(tokenizer.model_max_length, encoder.config.max_position_embeddings)
        ids, mask, offsets = tokenize(tokenizer, prompts, limit, overflow)
        device = next(encoder.parameters()).device
        output = encoder(ids.to(device), output_hidden_states=len(text_encoders) > 1)
        encoded.append((output, mask.to(device), offsets))
    (first, mask, offsets), (last, _, last_offsets) = encoded[0], encoded[-1]
    if offsets != last_offsets:
        raise InputError(
            "tokenizer_2", "vocab.json", "the two tokenizers split prompts differently"
        )
    if len(encoded) == 1:
        return PromptEncoding(tuple(prompts), first.last_hidden_state, mask, offsets)
    embeddings = torch.cat([output.hidden_states[-2] for output, _, _ in encoded], dim=-1)
    return PromptEncoding(tuple(prompts), embeddings, mask, offsets, last.text_embeds)


def phrase_means(
    encoding: PromptEncoding, spans: Sequence[Sequence[Span]]
) -> tuple[Tensor, Tensor]:
    """Each phrase's mean token embedding (B, N, C), and a mask (B, N) of the real phrases.

    ``spans`` has the character spans of every prompt's phrases; N is the largest number of them.
    Raises :class:`InputError` for a span without text or with truncated tokens.
    """
    assert len(spans) == len(encoding.prompts), "one list of spans per prompt"
    widest = max(map(len, spans))
    if widest == 0:
        raise InputError("prompt", "spans", "none of the prompts has a phrase")
    embeddings = encoding.embeddings
    weights = torch.zeros(len(spans), widest, embeddings.shape[1])  # (B, N, L)
    for item, item_spans in enumerate(spans):
        for phrase, span in enumerate(item_spans):
            tokens = encoding.token_indices(item, span)
            weights[item, phrase, tokens] = 1 / len(tokens)
    weights = weights.to(embeddings)
    return weights @ embeddings, weights.any(dim=-1)
