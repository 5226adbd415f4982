"""The adapter protocol: what a bypass beside a frozen UNet is to the probe.

``B`` batch · ``K`` context tokens or phrases · ``N`` pixels = h·w · ``C`` channels
"""

from __future__ import annotations

from typing import Protocol

from torch import Tensor

State = tuple[Tensor, ...]
Size = tuple[int, int]


class SiteAdapter(Protocol):
    """A bypass that reads image features and rewrites the context, site by site.

    It must be pure: whatever one site passes to the next travels in ``state``, a tuple of tensors,
    because checkpointing calls the methods a second time. ``sites`` are the attn2 modules before
    which :meth:`before` is called; a site not listed attends to :meth:`context` of the state.
    """

    sites: tuple[str, ...]

    def start(self, context: Tensor, context_mask: Tensor) -> State:
        """The first state, from the prompt's context (B, K, C) and its bool mask (B, K)."""
        ...

    def before(self, site: str, features: Tensor, size: Size, state: State) -> tuple[Tensor, State]:
        """Between self- and cross-attention of a block: the context (B, K, C) of this site.

        ``features`` (B, N, C_v) is the hidden state after the self-attention residual, before the
        norm of the cross-attention.
        """
        ...

    def after(self, site: str, probs: Tensor, state: State) -> State:
        """After the cross-attention of a site in ``request.cross``, given its maps (B, K, h, w)."""
        ...

    def context(self, state: State) -> Tensor:
        """The context (B, K, C) that the state holds."""
        ...
