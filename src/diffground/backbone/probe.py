"""The probe: named attention maps and features out of one pass of a frozen UNet.

``B`` batch · ``K`` context tokens or phrases · ``N`` pixels = h·w · ``C`` channels · ``H`` heads

Only what is asked for is captured, every other attention layer keeps its fused kernel, and the pass
stops after the last module asked for. Each transformer and each resnet of the UNet is a *unit*; the
taps inside a unit are put in when it runs and taken out when it returns. A unit is therefore a pure
function of its inputs, and ``checkpoint=True`` may run it again in the backward pass, long after
the probe itself is over.
"""

from __future__ import annotations

import difflib
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager, suppress
from dataclasses import dataclass, field
from typing import Any

import torch
from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.resnet import ResnetBlock2D
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import Tensor, nn
from torch.utils.checkpoint import checkpoint as run_checkpointed

from diffground.backbone.adapter import SiteAdapter, Size, State
from diffground.backbone.speed import as_written
from diffground.backbone.taps import Frame, Processor, Stop, Tag, tap_feature
from diffground.errors import InputError

# Kind of a tap -> the field of what is requested and of what was captured.
_FIELDS = {
    "cross": "cross",
    "score": "scores",
    "head": "heads",
    "self": "self_",
    "feature": "features",
}


@dataclass(frozen=True)
class ProbeRequest:
    """What to capture, by diffusers' module names.

    ``cross`` and ``self_`` name attention modules (``...attn2``, ``...attn1``). ``features`` names
    any module for the tensor it puts out, or ``input:<module>`` for the tensor entering it.
    ``scores`` names cross-attention modules, all in ``cross`` too, for what their softmax is of,
    ``heads`` likewise for their maps head by head.
    """

    cross: tuple[str, ...] = ()
    self_: tuple[str, ...] = ()
    features: tuple[str, ...] = ()
    scores: tuple[str, ...] = ()
    heads: tuple[str, ...] = ()

    def tags(self) -> list[Tag]:
        """Every requested tap as ``(kind, name)``."""
        return [(kind, name) for kind, where in _FIELDS.items() for name in getattr(self, where)]


@dataclass
class ProbeResult:
    """What was captured, by requested name. Attention maps are float32 and averaged over heads.

    ``cross`` (B, K, h, w) sums to 1 over K, ``scores`` (B, K, h, w) are the products q·k/√d before
    that softmax, also of masked tokens; ``heads`` (B, H, K, h, w) are the maps that ``cross`` is
    the mean of; ``self_`` (B, N, N) has rows (queries) that sum to 1;
    ``features`` (B, C, h, w) keep the model's dtype; ``sizes`` has the ``(h, w)`` of each of them;
    ``state`` is the adapter's last state.
    """

    cross: dict[str, Tensor] = field(default_factory=dict)
    self_: dict[str, Tensor] = field(default_factory=dict)
    sizes: dict[str, Size] = field(default_factory=dict)
    features: dict[str, Tensor] = field(default_factory=dict)
    scores: dict[str, Tensor] = field(default_factory=dict)
    heads: dict[str, Tensor] = field(default_factory=dict)
    state: State | None = None

    def take(self, frame: Frame, where: str) -> None:
        """Takes what a pass kept; :class:`InputError` if the UNet left out something asked for."""
        if frame.pending:
            names = ", ".join(sorted(name for _, name in frame.pending))
            raise InputError(where, "request", f"the UNet never runs {names}")
        for (kind, name), (tensor, size) in frame.kept.items():
            getattr(self, _FIELDS[kind])[name], self.sizes[name] = tensor, size

    def item(self, index: int) -> ProbeResult:
        """The maps and features of one item, still with a batch axis of 1 (without the state)."""
        one = ProbeResult(sizes=self.sizes)
        for where in _FIELDS.values():
            for name, tensor in getattr(self, where).items():
                getattr(one, where)[name] = tensor[index : index + 1]
        return one


def probe_unet(
    unet: UNet2DConditionModel,
    latents: Tensor,
    timestep: float,
    context: Tensor,
    request: ProbeRequest,
    *,
    context_mask: Tensor | None = None,
    added: dict[str, Tensor] | None = None,
    adapter: SiteAdapter | None = None,
    checkpoint: bool = False,
    where: str = "unet",
) -> ProbeResult:
    """Runs the UNet on latents (B, 4, h, w) and context (B, K, C) up to the last tap.

    ``context_mask`` (B, K), True for real tokens, holds in every cross-attention layer; a masked
    token has probability exactly 0, and a row without any real token attends to all alike.
    ``added`` is SDXL's pooled text and time ids. ``where`` names the model in errors.

    Raises :class:`InputError` for names that the UNet does not have or never runs.
    """
    plan = _Plan(unet, request, adapter, checkpoint, where)
    state: State = ()
    if adapter is not None:
        everywhere = torch.ones(context.shape[:2], dtype=torch.bool, device=context.device)
        state = adapter.start(context, everywhere if context_mask is None else context_mask)
    root = Frame(set(plan.tags), state)
    with suppress(Stop), plan.installed(root):
        unet(
            latents,
            timestep,
            encoder_hidden_states=context,
            encoder_attention_mask=context_mask,
            added_cond_kwargs=added,
            return_dict=False,
        )
    result = ProbeResult(state=None if adapter is None else root.state)
    result.take(root, where)
    return result


def check_tags(modules: Mapping[str, nn.Module], tags: Sequence[Tag], where: str) -> None:
    """Raises :class:`InputError` for tags that name no fitting module, and for none at all."""
    if not tags:
        raise InputError(where, "request", "nothing is requested: name at least one module")
    for kind, name in tags:
        path = name.removeprefix("input:") if kind == "feature" else name
        if kind in {"score", "head"} and ("cross", name) not in tags:
            raise InputError(where, kind, f"{name!r} must be in `cross` as well")
        of_cross = dict.fromkeys(("cross", "score", "head", "before"), ".attn2")
        end = (of_cross | {"self": ".attn1"}).get(kind, "")
        if path and path in modules and path.endswith(end):
            continue
        known = [known for known in modules if known.endswith(end)]
        near = difflib.get_close_matches(path, known, n=3, cutoff=0.0)
        what = f"an attention module (*{end})" if end else "a module"
        raise InputError(
            where, kind, f"{name!r} is not {what} of this UNet; near: {', '.join(near)}"
        )


class _Plan:
    """Which taps go where. It never changes and holds no tensor that a pass makes: the autograd
    graph of a checkpointed unit refers to it, and would otherwise keep its own results alive."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        request: ProbeRequest,
        adapter: SiteAdapter | None,
        checkpoint: bool,
        where: str,
    ) -> None:
        self.adapter, self.checkpoint = adapter, checkpoint
        self.modules = dict(unet.named_modules())
        self.tags = request.tags()
        if adapter is not None:
            self.tags += [("before", site) for site in adapter.sites]
        check_tags(self.modules, self.tags, where)
        self.units = {
            name: module
            for name, module in self.modules.items()
            if isinstance(module, (Transformer2DModel, ResnetBlock2D))
        }
        self.taps: dict[str, list[Tag]] = {name: [] for name in ("", *self.units)}
        for kind, name in self.tags:
            self.taps[self._owner(name.removeprefix("input:"))].append((kind, name))
        # With an adapter the context changes from block to block, so every attn2 must ask for it.
        self.sites: dict[str, list[str]] = {name: [] for name in self.taps}
        for name, module in self.modules.items():
            if adapter is not None and name.endswith(".attn2") and isinstance(module, Attention):
                self.sites[self._owner(name)].append(name)

    def _owner(self, path: str) -> str:
        """The unit that the module lies in, or "" for one outside of all units."""
        parts = path.split(".")
        prefixes = (".".join(parts[:end]) for end in range(1, len(parts)))
        return next((prefix for prefix in prefixes if prefix in self.units), "")

    @contextmanager
    def installed(self, root: Frame) -> Iterator[None]:
        """Wraps the units that have something to do, and taps what lies outside of them."""
        with ExitStack() as undo:
            paths = (name.removeprefix("input:") for _, name in self.tags)
            undo.enter_context(as_written(self.modules, paths))
            for name, module in self.units.items():
                if self.taps[name] or self.sites[name] or self.checkpoint:
                    wrapped = self._wrapped(name, module.forward, root)
                    undo.enter_context(_replaced_forward(module, wrapped))
            undo.enter_context(self.tapped("", root))
            yield

    def _wrapped(self, name: str, forward: Callable[..., Any], root: Frame) -> Callable[..., Any]:
        def unit(*args: Any, **kwargs: Any) -> Any:
            run = self._pure(name, forward, frozenset(root.pending))
            if self.checkpoint and torch.is_grad_enabled():
                made = run_checkpointed(run, root.state, *args, use_reentrant=False, **kwargs)
            else:
                made = run(root.state, *args, **kwargs)
            output, root.state, kept, root.pending = made
            root.kept.update(kept)
            if not root.pending:
                raise Stop
            return output

        return unit

    def _pure(
        self, name: str, forward: Callable[..., Any], pending: frozenset[Tag]
    ) -> Callable[..., tuple[Any, State, dict[Tag, tuple[Tensor, Size]], set[Tag]]]:
        def run(state: State, hidden: Tensor, *args: Any, **kwargs: Any) -> Any:
            height, width = hidden.shape[-2:]
            frame = Frame(set(pending), state, (height, width))
            output = None
            with suppress(Stop), self.tapped(name, frame):
                output = forward(hidden, *args, **kwargs)
            return output, frame.state, frame.kept, frame.pending

        return run

    @contextmanager
    def tapped(self, owner: str, frame: Frame) -> Iterator[None]:
        """The hooks and processors of one unit, removed again whatever happens inside."""
        with ExitStack() as undo:
            captured = set()
            for kind, name in self.taps[owner]:
                if kind == "feature":
                    undo.callback(tap_feature(self.modules, name, frame).remove)
                elif kind == "before":
                    undo.callback(self._tap_hidden(name, frame).remove)
                else:
                    captured.add(name)
            for name in captured.union(self.sites[owner]):
                attn = self.modules[name]
                assert isinstance(attn, Attention)
                undo.callback(attn.set_processor, attn.processor)
                attn.set_processor(Processor(name, frame, self.adapter, name in captured))
            yield

    def _tap_hidden(self, site: str, frame: Frame) -> Any:
        """Calls the adapter with what enters the norm before the cross-attention ``site``."""
        norm = self.modules[site.removesuffix("attn2") + "norm2"]

        def before(_: nn.Module, args: tuple[Any, ...]) -> None:
            assert self.adapter is not None and frame.size is not None
            frame.contexts[site], frame.state = self.adapter.before(
                site, args[0], frame.size, frame.state
            )
            frame.done(("before", site))

        return norm.register_forward_pre_hook(before)


@contextmanager
def _replaced_forward(module: nn.Module, forward: Callable[..., Any]) -> Iterator[None]:
    own = vars(module).get("forward")  # set on the instance by someone else: comes back after
    module.forward = forward
    try:
        yield
    finally:
        del module.forward
        if own is not None:
            module.forward = own
