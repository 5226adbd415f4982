"""Adapters in the probe: what they are given, what they change, and what is put back."""

import pytest
import torch
from probing import TEXT2MASK, Case, assert_same, everything
from torch import Tensor, nn

from diffground.backbone.adapter import State
from diffground.backbone.layers import CROSS_SITES, cross_sites, paper_layer
from diffground.backbone.probe import ProbeRequest
from diffground.backbone.taps import Size


class Unchanged:
    """An adapter that hands the context on, and notes what it was given."""

    def __init__(self, sites: tuple[str, ...]) -> None:
        self.sites = sites
        self.sizes: dict[str, Size] = {}
        self.features: dict[str, Tensor] = {}
        self.after_sites: list[str] = []

    def start(self, context: Tensor, context_mask: Tensor) -> State:
        assert context_mask.shape == context.shape[:2] and context_mask.dtype == torch.bool
        return (context,)

    def before(self, site: str, features: Tensor, size: Size, state: State) -> tuple[Tensor, State]:
        self.sizes[site], self.features[site] = size, features.detach()
        return state[0], state

    def after(self, site: str, probs: Tensor, state: State) -> State:
        self.after_sites.append(site)
        return state

    def context(self, state: State) -> Tensor:
        return state[0]


class Mixing(nn.Module):
    """An adapter with parameters and dropout: pixels change the tokens, maps weigh the next."""

    def __init__(self, sites: tuple[str, ...], channels: dict[str, int], width: int) -> None:
        super().__init__()
        self.sites = sites
        self.maps = nn.ModuleDict(
            {site.replace(".", "_"): nn.Linear(channels[site], width) for site in sites}
        )
        self.gain = nn.Parameter(torch.ones(()))
        self.drop = nn.Dropout(0.2)

    def start(self, context: Tensor, context_mask: Tensor) -> State:
        return context, context_mask.to(context.dtype)

    def before(self, site: str, features: Tensor, size: Size, state: State) -> tuple[Tensor, State]:
        context, weights = state
        pooled = self.maps[site.replace(".", "_")](features).mean(dim=1, keepdim=True)
        context = context + self.drop(weights[..., None] * pooled)
        return context, (context, weights)

    def after(self, site: str, probs: Tensor, state: State) -> State:
        context, weights = state
        return context, weights + self.gain * probs.mean(dim=(-2, -1))

    def context(self, state: State) -> Tensor:
        return state[0]


def mixing(case: Case, sites: tuple[str, ...]) -> Mixing:
    torch.manual_seed(2)
    modules = dict(case.model.unet.named_modules())
    channels = {site: modules[site].to_q.in_features for site in sites}
    return Mixing(sites, channels, case.model.context_dim)


def test_an_adapter_that_changes_nothing(case: Case) -> None:
    sites = cross_sites(case.model.unet)
    request = everything(case.model)
    plain = case.probe(request)
    for checkpoint in (False, True):
        adapter = Unchanged(sites[::2])
        result = case.probe(request, adapter=adapter, checkpoint=checkpoint)
        assert_same(result, plain, tolerance=0)
        assert adapter.after_sites == list(sites)
        assert adapter.sizes == {site: result.sizes[site] for site in sites[::2]}
        torch.testing.assert_close(result.state, (case.context,))


def test_before_sees_the_self_attention_residual(case: Case) -> None:
    """``norm2`` of what the adapter gets is what the cross-attention gets as its queries."""
    sites = cross_sites(case.model.unet)
    adapter = Unchanged(sites)
    modules = dict(case.model.unet.named_modules())
    queries: dict[str, Tensor] = {}
    hooks = [
        modules[site].register_forward_pre_hook(
            lambda _, args, site=site: queries.update({site: args[0]})
        )
        for site in sites
    ]
    case.probe(ProbeRequest(cross=sites[-1:]), adapter=adapter)
    for hook in hooks:
        hook.remove()
    for site in sites:
        norm = modules[site.removesuffix("attn2") + "norm2"]
        torch.testing.assert_close(norm(adapter.features[site]), queries[site])


def test_an_adapter_that_changes_the_context(case: Case) -> None:
    """Maps before its first site stay, later ones change, and later sites without it follow."""
    sites = cross_sites(case.model.unet)
    request = everything(case.model)
    plain = case.probe(request)
    adapter = mixing(case, sites[3:5]).eval()
    result = case.probe(request, adapter=adapter)
    for site in sites[:3]:
        assert torch.equal(result.cross[site], plain.cross[site])
    for site in sites[3:]:
        assert not torch.allclose(result.cross[site], plain.cross[site], atol=1e-4)


class OwnContext(Unchanged):
    """Hands out a context at its sites that differs from the one its state holds."""

    def before(self, site: str, features: Tensor, size: Size, state: State) -> tuple[Tensor, State]:
        return -state[0], state


def test_a_site_attends_to_what_before_returns(case: Case) -> None:
    """Its own sites read the negated context, the others that of the state."""
    sites = cross_sites(case.model.unet)
    modules = dict(case.model.unet.named_modules())
    seen: dict[str, Tensor] = {}
    hooks = [
        modules[f"{site}.to_k"].register_forward_pre_hook(
            lambda _, args, site=site: seen.update({site: args[0]})
        )
        for site in sites
    ]
    case.probe(everything(case.model), adapter=OwnContext(sites[::2]))
    for hook in hooks:
        hook.remove()
    for site in sites:
        torch.testing.assert_close(
            seen[site], -case.context if site in sites[::2] else case.context
        )


def test_gradients_to_the_adapter(case: Case) -> None:
    """Checkpointing gives the same gradients, dropout included, where the last site is stopped
    at its self-attention, and where the last thing wanted is the adapter's state."""
    sites = cross_sites(case.model.unet)
    requests = (
        ProbeRequest(sites[:-1], (), ("up_blocks.1.resnets.1",)),
        ProbeRequest(case.model.layers.cross, (case.model.layers.self_layer,)),
    )
    for request in requests:
        gradients = []
        for checkpoint in (False, True):
            adapter = mixing(case, sites[1::2])
            torch.manual_seed(3)
            result = case.probe(request, adapter=adapter, checkpoint=checkpoint)
            assert result.state is not None
            loss = sum(m.square().sum() for m in (*result.cross.values(), *result.self_.values()))
            (loss + result.state[0].square().mean() + result.state[1].sum()).backward()
            gradients.append([parameter.grad for parameter in adapter.parameters()])
        for without, with_ in zip(*gradients, strict=True):
            assert without.abs().max() > 0
            torch.testing.assert_close(without, with_, atol=1e-5, rtol=1e-4)


def test_stops_after_the_last_adapter_site(one: Case) -> None:
    adapter = Unchanged(CROSS_SITES[8:9])
    ran: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name, module in one.model.unet.named_modules()
    ]
    one.probe(ProbeRequest(cross=CROSS_SITES[4:5]), adapter=adapter)
    for hook in hooks:
        hook.remove()
    assert ran[-1] == f"{paper_layer(8)}.norm2"


class Failing(Unchanged):
    def before(self, site: str, features: Tensor, size: Size, state: State) -> tuple[Tensor, State]:
        raise RuntimeError("from inside of the adapter")


@pytest.mark.parametrize("checkpoint", [False, True])
def test_everything_is_put_back(checkpoint: bool, one: Case) -> None:
    unet = one.model.unet
    processors = dict(unet.attn_processors)
    expected = one.plain()
    one.probe(TEXT2MASK, checkpoint=checkpoint)
    with pytest.raises(RuntimeError, match="inside of the adapter"):
        one.probe(
            everything(one.model),
            adapter=Failing(CROSS_SITES[7:8]),
            checkpoint=checkpoint,
            context=one.context.clone().requires_grad_(),
        )
    assert unet.attn_processors.keys() == processors.keys()
    assert all(unet.attn_processors[name] is processors[name] for name in processors)
    for module in unet.modules():
        assert "forward" not in vars(module)
        assert not module._forward_hooks and not module._forward_pre_hooks
    assert torch.equal(one.plain(), expected)
