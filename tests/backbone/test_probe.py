"""The probe against the UNet's own forward pass, and against attention computed plainly."""

import gc
import itertools
import weakref

import pytest
import torch
from probing import SELF, TEXT2MASK, Case, assert_same, everything
from torch import Tensor

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import CROSS_SITES, cross_sites, paper_layer
from diffground.backbone.probe import ProbeRequest
from diffground.errors import InputError


def test_the_probe_changes_nothing(case: Case) -> None:
    result = case.probe(everything(case.model))
    torch.testing.assert_close(result.features["conv_out"], case.plain(), atol=1e-5, rtol=1e-5)


def test_maps_are_the_softmax_of_eq_2(case: Case) -> None:
    """Queries and keys from hooks on the plain pass, then the equation head by head."""
    made: dict[str, Tensor] = {}
    modules = dict(case.model.unet.named_modules())
    hooks = [
        module.register_forward_hook(lambda _, __, out, name=name: made.update({name: out}))
        for name, module in modules.items()
        if name.endswith(("to_q", "to_k")) and "attn" in name
    ]
    case.plain()
    for hook in hooks:
        hook.remove()
    result = case.probe(everything(case.model))
    assert len(result.cross) == len(result.self_) == len(hooks) // 4
    for name, maps in itertools.chain(result.cross.items(), result.self_.items()):
        count = modules[name].heads
        height, width = result.sizes[name]
        expected = torch.zeros(())
        queries, keys = made[f"{name}.to_q"], made[f"{name}.to_k"]
        for query, key in zip(queries.chunk(count, -1), keys.chunk(count, -1), strict=True):
            scores = query @ key.mT / query.shape[-1] ** 0.5
            if name in result.cross:
                hidden = ~case.args["context_mask"][:, None]
                scores = scores.masked_fill(hidden, -torch.inf)
            expected = expected + scores.softmax(dim=-1) / count
        if name in result.cross:
            expected = expected.transpose(1, 2).reshape(*maps.shape[:2], height, width)
            assert (maps[1][~case.args["context_mask"][1]] == 0).all()
        torch.testing.assert_close(maps, expected, atol=1e-5, rtol=1e-4)
        assert (height, width) in {(8, 12), (4, 6), (2, 3), (1, 2)}


def test_heads_are_what_the_maps_are_the_mean_of(case: Case) -> None:
    sites = cross_sites(case.model.unet)
    result = case.probe(ProbeRequest(cross=sites[:3], heads=sites[:2]))
    assert set(result.heads) == set(sites[:2]) and len(result.cross) == 3
    for name, maps in result.heads.items():
        heads = dict(case.model.unet.named_modules())[name].heads
        assert maps.shape[1] == heads > 1 and maps.dtype == torch.float32
        torch.testing.assert_close(maps.mean(dim=1), result.cross[name])
        assert not torch.allclose(maps[:, 0], maps[:, 1], atol=1e-3)
        torch.testing.assert_close(result.item(1).heads[name], maps[1:2])
    with pytest.raises(InputError, match="must be in `cross` as well"):
        case.probe(ProbeRequest(cross=sites[:1], heads=sites[:2]))


def test_the_mask_also_holds_where_nothing_is_probed(one: Case) -> None:
    """What stands at masked places of the context cannot reach the prediction."""
    request = ProbeRequest(features=("conv_out",))
    other = one.context + 100 * ~one.args["context_mask"][..., None]
    assert_same(one.probe(request), one.probe(request, context=other))
    free = one.probe(request, context=other, context_mask=None).features["conv_out"]
    assert not torch.allclose(free, one.probe(request).features["conv_out"], atol=1e-2)


def test_the_pass_stops_after_the_last_tap(one: Case) -> None:
    ran: list[str] = []
    hooks = [
        module.register_forward_pre_hook(lambda *_, name=name: ran.append(name))
        for name, module in one.model.unet.named_modules()
        if not any(module.children())
    ]
    short = one.probe(TEXT2MASK)
    early = list(ran)
    ran.clear()
    full = one.probe(ProbeRequest(TEXT2MASK.cross, TEXT2MASK.self_, ("conv_out",)))
    for hook in hooks:
        hook.remove()
    assert_same(short, full, tolerance=0)
    # The beginning of the full pass, and nothing after the self-attention layer.
    assert early == ran[: len(early)] and early[-1].startswith(SELF)
    assert {name.split(".")[0] for name in ran[len(early) :]} >= {"up_blocks", "conv_out"}
    assert not any(name.startswith("up_blocks.3") for name in early)


def test_features_at_module_borders_and_inside(one: Case) -> None:
    inside = f"{paper_layer(7)}.attn2.to_q"
    names = ("input:up_blocks.1.resnets.2", "up_blocks.1.resnets.2", "input:up_blocks.1")
    names += ("mid_block", "down_blocks.0", "up_blocks.1.resnets.0.conv1", inside)
    seen: dict[str, Tensor] = {}
    modules = dict(one.model.unet.named_modules())
    hooks = []
    for name in names:
        module = modules[name.removeprefix("input:")]

        def note(_, args, kwargs, output, name=name) -> None:
            entering = args[0] if args else kwargs["hidden_states"]
            leaving = output if isinstance(output, Tensor) else output[0]
            seen[name] = entering if name.startswith("input:") else leaving

        hooks.append(module.register_forward_hook(note, with_kwargs=True))
    one.plain()
    for hook in hooks:
        hook.remove()
    seen[inside] = seen[inside].transpose(1, 2).reshape(2, -1, 2, 3)
    for checkpoint in (False, True):
        result = one.probe(ProbeRequest(features=names), checkpoint=checkpoint)
        for name in names:
            torch.testing.assert_close(result.features[name], seen[name], atol=1e-5, rtol=1e-4)
            assert result.sizes[name] == tuple(seen[name].shape[-2:])


def test_sides_that_the_unet_does_not_divide(one: Case) -> None:
    latents = torch.randn(2, 4, 9, 13)
    result = one.probe(everything(one.model), latents=latents)
    expected = one.model.unet(
        latents, 150, one.context, encoder_attention_mask=one.args["context_mask"]
    )
    torch.testing.assert_close(result.features["conv_out"], expected.sample, atol=1e-5, rtol=1e-4)
    assert [result.sizes[CROSS_SITES[i]] for i in (0, 2, 4, 6, 7, 10, 13)] == [
        (9, 13),
        (5, 7),
        (3, 4),
        (2, 2),
        (3, 4),
        (5, 7),
        (9, 13),
    ]


def test_noises_of_one_image_in_one_batch(sd1: FrozenDiffusion) -> None:
    encoding = sd1.encode_prompts(["a dog and a cup"])
    latents = torch.randn(1, 4, 8, 12)
    noisy = sd1.add_noise(latents, 150, [1, 2, 3])
    batch = sd1.probe(noisy, 150, encoding.embeddings, TEXT2MASK, context_mask=encoding.mask)
    assert batch.cross[CROSS_SITES[4]].shape == (3, 32, 2, 3)
    for index, seed in enumerate([1, 2, 3]):
        alone = sd1.probe(
            sd1.add_noise(latents, 150, [seed]),
            150,
            encoding.embeddings,
            TEXT2MASK,
            context_mask=encoding.mask,
        )
        assert_same(batch.item(index), alone)


def test_gradients_to_the_context(case: Case) -> None:
    """With and without checkpointing, of maps and features; the second half runs the last unit
    only up to its self-attention, which is where Text2Mask stops."""
    names = cross_sites(case.model.unet)
    table = case.model.layers
    requests = (
        ProbeRequest(names[::2], (table.self_layer,), ("up_blocks.1", "conv_out")),
        ProbeRequest(table.cross, (table.self_layer,)),
    )
    for request in requests:
        gradients = []
        for checkpoint in (False, True):
            context = case.context.clone().requires_grad_()
            result = case.probe(request, context=context, checkpoint=checkpoint)
            maps = [*result.cross.values(), *result.self_.values(), *result.features.values()]
            sum(tensor.square().sum() for tensor in maps).backward()
            gradients.append(context.grad)
        assert gradients[0].abs().max() > 0
        torch.testing.assert_close(gradients[0], gradients[1], atol=1e-6, rtol=1e-5)
    assert all(parameter.grad is None for parameter in case.model.parameters())


def test_checkpointing_saves_memory(one: Case) -> None:
    """Bytes that autograd saves in the forward pass."""
    saved = {}
    for checkpoint in (False, True):
        total = 0

        def pack(tensor: Tensor) -> Tensor:
            nonlocal total
            total += tensor.numel() * tensor.element_size()
            return tensor

        with torch.autograd.graph.saved_tensors_hooks(pack, lambda tensor: tensor):
            context = one.context.clone().requires_grad_()
            one.probe(ProbeRequest(features=("conv_out",)), context=context, checkpoint=checkpoint)
        saved[checkpoint] = total
    assert saved[True] < 0.3 * saved[False]


@pytest.mark.parametrize("checkpoint", [False, True])
def test_results_are_freed_without_a_backward_pass(checkpoint: bool, one: Case) -> None:
    context = one.context.clone().requires_grad_()
    result = one.probe(TEXT2MASK, context=context, checkpoint=checkpoint)
    alive = [weakref.ref(maps) for maps in result.cross.values()]
    del result
    gc.collect()
    assert not any(reference() is not None for reference in alive)


def test_inference_mode(one: Case) -> None:
    with torch.inference_mode():
        result = one.probe(TEXT2MASK, checkpoint=True)
    assert_same(result, one.probe(TEXT2MASK))


@pytest.mark.parametrize(
    ("request_", "message"),
    [
        (ProbeRequest(cross=("up_blocks.1.attentions.0.attn2",)), "near: up_blocks.1"),
        (ProbeRequest(cross=(SELF,)), r"not an attention module \(\*.attn2\)"),
        (ProbeRequest(self_=CROSS_SITES[:1]), r"not an attention module \(\*.attn1\)"),
        (ProbeRequest(features=("up_blocks.7",)), "near: up_blocks"),
        (ProbeRequest(features=("input:",)), "not a module"),
        (ProbeRequest(features=("up_blocks",)), "never runs up_blocks"),
        (ProbeRequest(features=("time_embedding",)), "not spatial"),
        (ProbeRequest(features=(f"{paper_layer(0)}.attn2.to_k",)), "not spatial"),
        (ProbeRequest(), "nothing is requested"),
    ],
)
def test_wrong_requests(request_: ProbeRequest, message: str, one: Case) -> None:
    with pytest.raises(InputError, match=message):
        one.probe(request_)


def test_wrong_inputs(one: Case, models_by_family: dict[str, FrozenDiffusion]) -> None:
    with pytest.raises(InputError, match=r"not \(B, K, 16\)"):
        one.probe(TEXT2MASK, context=one.context[..., :-1])
    with pytest.raises(InputError, match="3 contexts for 2 latents"):
        one.probe(TEXT2MASK, context=one.context[[0, 0, 0]])
    with pytest.raises(InputError, match="sd1 has no pooled text"):
        one.probe(TEXT2MASK, pooled=torch.zeros(2, 12))
    with pytest.raises(InputError, match="sdxl needs pooled text"):
        Case(models_by_family["sdxl"]).probe(TEXT2MASK, pooled=None)
