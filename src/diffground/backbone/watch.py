"""Watching a pass: maps and features out of a UNet pass that somebody else runs, unchanged.

:func:`.probe.probe_unet` runs the UNet itself, as far as it needs, with attention written out where
it captures. A generation needs the whole pass, and its image may not depend on who watches: here
the maps of an attention layer are computed beside the layer, from what enters it, and the layer
keeps its kernel and its output to the last bit.
"""

from __future__ import annotations

from collections.abc import Iterator
from contextlib import ExitStack, contextmanager
from typing import Any

from diffusers import UNet2DConditionModel
from diffusers.models.attention_processor import Attention
from diffusers.models.transformers.transformer_2d import Transformer2DModel
from torch import nn

from diffground.backbone.probe import ProbeRequest, ProbeResult, check_tags
from diffground.backbone.speed import as_written
from diffground.backbone.taps import Frame, Processor, tap_feature


@contextmanager
def watched(
    unet: UNet2DConditionModel, request: ProbeRequest, rows: slice, *, where: str
) -> Iterator[ProbeResult]:
    """Captures ``rows`` of the batch from the one pass of ``unet`` that is run inside.

    The result is filled when the context is left without an error. Costs what is asked for: the
    probabilities of the layers named, for those rows. ``where`` names the model in errors.

    Raises :class:`InputError` for names that the UNet does not have or never runs.
    """
    modules = dict(unet.named_modules())
    tags = request.tags()
    check_tags(modules, tags, where)
    frame, result = Frame(set(tags), (), stops=False), ProbeResult()
    with ExitStack() as undo:
        paths = (name.removeprefix("input:") for name in request.features)
        undo.enter_context(as_written(modules, paths))
        for module in modules.values():
            if isinstance(module, Transformer2DModel):
                for handle in _tell_size(module, frame):
                    undo.callback(handle.remove)
        for name in dict.fromkeys((*request.cross, *request.self_)):
            undo.callback(_beside(modules[name], name, frame, rows).remove)
        for name in request.features:
            undo.callback(tap_feature(modules, name, frame, rows).remove)
        yield result
    result.take(frame, where)


def _tell_size(module: nn.Module, frame: Frame) -> tuple[Any, Any]:
    """Lets the frame know the (h, w) of the tokens inside a transformer."""

    def entering(_: nn.Module, args: tuple[Any, ...]) -> None:
        frame.size = (args[0].shape[-2], args[0].shape[-1])

    def leaving(_: nn.Module, args: tuple[Any, ...], output: Any) -> None:
        frame.size = None

    return module.register_forward_pre_hook(entering), module.register_forward_hook(leaving)


def _beside(module: nn.Module, name: str, frame: Frame, rows: slice) -> Any:
    """Computes the maps of an attention layer from ``rows`` of what enters it."""
    processor = Processor(name, frame, adapter=None, capture=True)

    def entering(attn: nn.Module, args: tuple[Any, ...], kwargs: dict[str, Any]) -> None:
        assert isinstance(attn, Attention)
        context, bias = kwargs.get("encoder_hidden_states"), kwargs.get("attention_mask")
        processor(
            attn,
            args[0][rows],
            None if context is None else context[rows],
            None if bias is None else bias[rows],
        )

    return module.register_forward_pre_hook(entering, with_kwargs=True)
