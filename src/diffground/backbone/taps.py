"""What sits at a tap: attention written out, the processor around it, and what a run keeps.

``B`` batch · ``K`` context tokens or phrases · ``N`` pixels = h·w · ``C`` channels · ``H`` heads
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers.models.attention_processor import Attention, AttnProcessor2_0
from torch import Tensor, nn
from torch.utils.hooks import RemovableHandle

from diffground.backbone.adapter import SiteAdapter, Size, State
from diffground.errors import InputError

Tag = tuple[str, str]  # (kind, name): "cross", "score", "head", "self", "feature" and "before"


def attend(
    attn: Attention,
    hidden: Tensor,
    context: Tensor,
    bias: Tensor | None,
    heads_at_once: int,
    by_head: list[Tensor] | None = None,
) -> tuple[Tensor, Tensor, Tensor]:
    """Attention written out, for hidden (B, N, C), context (B, K, C') and bias (B, 1, K).

    Returns the layer's output (B, N, C), its probabilities (B, N, K) and the scores before bias and
    softmax (B, N, K), float32, both averaged over the heads while they are made: only
    ``heads_at_once`` of them exist at a time. A list ``by_head`` gets the probabilities of them
    all, (B, ``heads_at_once``, N, K) each time.
    """

    def heads(projected: Tensor) -> tuple[Tensor, ...]:
        by_head = projected.unflatten(-1, (attn.heads, -1)).transpose(1, 2)  # (B, H, N, C/H)
        return by_head.split(heads_at_once, dim=1)

    mean: Tensor | float = 0.0
    mean_scores: Tensor | float = 0.0
    outputs = []
    parts = heads(attn.to_q(hidden)), heads(attn.to_k(context)), heads(attn.to_v(context))
    for query, key, value in zip(*parts, strict=True):
        exact = torch.float32 if attn.upcast_attention else query.dtype
        scores = (query.to(exact) * attn.scale) @ key.to(exact).transpose(-1, -2)
        mean_scores = mean_scores + scores.float().sum(dim=1) / attn.heads
        if bias is not None:
            scores = scores + bias[:, None]
        probs = scores.softmax(dim=-1, dtype=torch.float32)
        mean = mean + probs.sum(dim=1) / attn.heads
        if by_head is not None:
            by_head.append(probs)
        outputs.append(probs.to(value.dtype) @ value)
    output = torch.cat(outputs, dim=1).transpose(1, 2).flatten(2)
    for layer in attn.to_out:  # a linear layer and its dropout, idle in eval
        output = layer(output)
    assert isinstance(mean, Tensor) and isinstance(mean_scores, Tensor)
    return output, mean, mean_scores


class Stop(Exception):
    """Everything asked for was captured."""


@dataclass
class Frame:
    """What one run of a unit, or of the UNet around the units, captures and passes on.

    ``stops`` says whether the run is over when nothing is pending.
    """

    pending: set[Tag]
    state: State
    size: Size | None = None
    stops: bool = True
    kept: dict[Tag, tuple[Tensor, Size]] = field(default_factory=dict)
    contexts: dict[str, Tensor] = field(default_factory=dict)

    def keep(self, tag: Tag, tensor: Tensor, size: Size) -> None:
        self.kept[tag] = tensor, size
        self.done(tag)

    def done(self, tag: Tag) -> None:
        self.pending.discard(tag)
        if self.stops and not self.pending:
            raise Stop


class Processor:
    """An attention processor that captures the maps, takes the adapter's context, or both."""

    fused = AttnProcessor2_0()

    def __init__(self, name: str, frame: Frame, adapter: SiteAdapter | None, capture: bool) -> None:
        self.name, self.frame, self.adapter, self.capture = name, frame, adapter, capture

    def __call__(
        self,
        attn: Attention,
        hidden_states: Tensor,
        encoder_hidden_states: Tensor | None = None,
        attention_mask: Tensor | None = None,
        temb: Tensor | None = None,
    ) -> Tensor:
        frame, cross = self.frame, self.name.endswith(".attn2")
        if cross and self.adapter is not None:
            context = frame.contexts.get(self.name)
            context = self.adapter.context(frame.state) if context is None else context
            encoder_hidden_states = context.to(hidden_states.dtype)
        if not self.capture:
            return self.fused(attn, hidden_states, encoder_hidden_states, attention_mask)
        assert frame.size is not None
        keys = encoder_hidden_states if cross else hidden_states
        assert keys is not None
        by_head: list[Tensor] | None = [] if ("head", self.name) in frame.pending else None
        output, probs, scores = attend(
            attn, hidden_states, keys, attention_mask, attn.heads if cross else 1, by_head
        )
        if not cross:
            frame.keep(("self", self.name), probs, frame.size)
            return output
        if ("score", self.name) in frame.pending:
            by_token = scores.transpose(1, 2).unflatten(2, frame.size)  # (B, K, h, w)
            frame.kept["score", self.name] = by_token, frame.size
            frame.pending.discard(("score", self.name))  # the map below may end the pass
        if by_head is not None:
            of_heads = torch.cat(by_head, dim=1).transpose(2, 3)
            frame.kept["head", self.name] = of_heads.unflatten(3, frame.size), frame.size
            frame.pending.discard(("head", self.name))
        maps = probs.transpose(1, 2).unflatten(2, frame.size)  # (B, K, h, w)
        if self.adapter is not None:
            frame.state = self.adapter.after(self.name, maps, frame.state)
        frame.keep(("cross", self.name), maps, frame.size)
        return output


def tap_feature(
    modules: Mapping[str, nn.Module], name: str, frame: Frame, rows: slice | None = None
) -> RemovableHandle:
    """Keeps the feature ``name``, or a copy of some ``rows`` of its batch, when its module runs."""
    module = modules[name.removeprefix("input:")]

    def keep(tensor: Tensor) -> None:
        feature = as_map(tensor if rows is None else tensor[rows].clone(), frame.size, name)
        frame.keep(("feature", name), feature, (feature.shape[-2], feature.shape[-1]))

    def entering(_: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        keep(args[0] if args else kwargs["hidden_states"])

    def leaving(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        keep(output if isinstance(output, Tensor) else output[0])

    if name.startswith("input:"):
        return module.register_forward_pre_hook(entering, with_kwargs=True)
    return module.register_forward_hook(leaving)


def as_map(tensor: Tensor, size: Size | None, name: str) -> Tensor:
    """A feature as (B, C, h, w); the tokens (B, N, C) inside a transformer are folded back."""
    text = name.endswith(("attn2.to_k", "attn2.to_v"))
    if tensor.ndim == 4:
        return tensor
    if tensor.ndim == 3 and size is not None and tensor.shape[1] == size[0] * size[1] and not text:
        return tensor.transpose(1, 2).unflatten(2, size)
    raise InputError(
        "request", "features", f"{name!r} has shape {tuple(tensor.shape)}, which is not spatial"
    )
