"""Generation against diffusers' own pipelines, and what a probe on the way may and may not do."""

import gc
import weakref
from pathlib import Path
from typing import Any

import diffusers
import numpy as np
import pytest
import torch
from diffusers import StableDiffusionPipeline, StableDiffusionXLPipeline
from probing import assert_same, everything
from recipes import recipe
from torch import Tensor

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import CROSS_SITES, cross_sites, paper_layer
from diffground.backbone.probe import ProbeRequest
from diffground.backbone.sampler import Step, retraced, sample
from diffground.backbone.text import PromptEncoding
from diffground.errors import InputError
from diffground.foundation.config import QualityConfig
from diffground.foundation.painting import generate
from diffground.seeds import derive_seed, generator

PROMPTS = ["a dog and a red cup", "two people", "a wooden table"]
SEEDS = [derive_seed(0, item) for item in range(3)]
SELF = f"{paper_layer(11)}.attn1"
SCHEDULERS = [
    "DDIMScheduler",
    "DDPMScheduler",
    "DPMSolverMultistepScheduler",
    "EulerAncestralDiscreteScheduler",
    "EulerDiscreteScheduler",
    "HeunDiscreteScheduler",
    "LCMScheduler",
    "PNDMScheduler",
    "UniPCMultistepScheduler",
]


def sampled(model: FrozenDiffusion, **changes: Any) -> list[Step]:
    """All steps of the three prompts, or of those that the seeds are of."""
    prompts = changes.pop("prompts", PROMPTS)
    options = {"steps": 3, "guidance": 5.0, **changes}
    seeds = options.pop("seeds", SEEDS)
    return list(sample(model, model.encode_prompts(prompts), seeds, **options))


def by_the_pipeline(model: FrozenDiffusion, **options: Any) -> list[Tensor]:
    """Latents after every step of the stock pipeline, from the same seeds."""
    kind = StableDiffusionXLPipeline if model.family == "sdxl" else StableDiffusionPipeline
    pipeline = kind.from_pretrained(model.folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    if scheduler := options.pop("scheduler", None):
        pipeline.scheduler = scheduler
    made: list[Tensor] = []

    def note(_: Any, index: int, timestep: Tensor, tensors: dict[str, Any]) -> dict[str, Any]:
        made.append(tensors["latents"])
        return {}

    pipeline(
        PROMPTS,
        generator=[torch.Generator("cpu").manual_seed(seed) for seed in SEEDS],
        callback_on_step_end=note,
        output_type="latent",
        **{"num_inference_steps": 3, "guidance_scale": 5.0, **options},
    )
    return made


def assert_steps(steps: list[Step], expected: list[Tensor]) -> None:
    assert len(steps) == len(expected) > 0
    for step, latents in zip(steps, expected, strict=True):
        assert torch.isfinite(latents).all()
        torch.testing.assert_close(step.latents, latents, atol=1e-5, rtol=1e-5)


@pytest.mark.parametrize("guidance", [0.0, 1.0, 5.0])
def test_latents_are_those_of_the_pipeline(model: FrozenDiffusion, guidance: float) -> None:
    expected = by_the_pipeline(model, guidance_scale=guidance)
    assert_steps(sampled(model, guidance=guidance), expected)


def test_negative_prompts_and_other_sizes(model: FrozenDiffusion) -> None:
    negative = ["a cupcake", "new york", "a bowl"]
    expected = by_the_pipeline(model, negative_prompt=negative, height=64, width=96)
    encoding = model.encode_prompts(negative)
    steps = sampled(model, negative=encoding, size=(64, 96))
    assert steps[-1].latents.shape == (3, 4, 8, 12)
    assert_steps(steps, expected)
    assert not torch.allclose(sampled(model, size=(64, 96))[-1].latents, expected[-1], atol=1e-3)


@pytest.mark.parametrize("name", SCHEDULERS)
def test_schedulers(name: str, sd1: FrozenDiffusion) -> None:
    """Deterministic and stochastic ones, of first and second order, with scaled inputs or not."""
    kind = getattr(diffusers, name)
    scheduler = kind.from_config(sd1.scheduler.config)
    steps = sampled(sd1, scheduler=scheduler)
    assert_steps(steps, by_the_pipeline(sd1, scheduler=kind.from_config(sd1.scheduler.config)))
    assert [step.index for step in steps] == list(range(len(steps)))
    scheduler.set_timesteps(3)
    assert [step.timestep for step in steps] == scheduler.timesteps.tolist()


def test_the_shipped_model_paints_as_the_pipeline_does(root: Path) -> None:
    folder = root / "data/06_models/mini-sd"
    pipeline = StableDiffusionPipeline.from_pretrained(folder, local_files_only=True)
    pipeline.set_progress_bar_config(disable=True)
    prompt = "a photo of a red ball and a blue cat on grass under a sky"
    config = recipe(QualityConfig, inference_steps=4)
    expected = pipeline(
        prompt,
        num_inference_steps=4,
        guidance_scale=config.guidance,
        generator=generator(0, 0, "generate"),
        output_type="np",
    ).images
    (image,) = generate(FrozenDiffusion.from_pretrained(folder), [prompt], config, seed=0)
    assert np.array_equal(image, (expected[0] * 255).round().astype(np.uint8))
    assert image.std() > 20


@pytest.mark.parametrize("name", ["PNDMScheduler", "EulerAncestralDiscreteScheduler"])
def test_an_image_depends_on_its_own_seed_alone(name: str, sd1: FrozenDiffusion) -> None:
    """Neither on its batch nor on its place there, also where every step draws noise."""
    scheduler = getattr(diffusers, name).from_config(sd1.scheduler.config)
    together = sampled(sd1, scheduler=scheduler)
    for order in ([2, 0, 1], [1]):
        prompts, seeds = [PROMPTS[i] for i in order], [SEEDS[i] for i in order]
        again = sampled(sd1, prompts=prompts, seeds=seeds, scheduler=scheduler)
        assert torch.equal(again[0].entering, together[0].entering[order])
        for step, reference in zip(again, together, strict=True):
            torch.testing.assert_close(step.latents, reference.latents[order], atol=1e-4, rtol=0)
    of_one = sampled(sd1, prompts=PROMPTS[:1], scheduler=scheduler)  # three images of one prompt
    torch.testing.assert_close(of_one[-1].latents[:1], together[-1].latents[:1], atol=1e-4, rtol=0)
    assert not torch.allclose(of_one[-1].latents[0], of_one[-1].latents[1], atol=0.1)
    # The scheduler handed over has counted nothing: two generations may go on at once.
    assert getattr(scheduler, "step_index", None) is None


@pytest.mark.parametrize("guidance", [1.0, 5.0])
def test_a_probe_changes_no_image(model: FrozenDiffusion, guidance: float) -> None:
    """To the last bit, whatever is captured; and what is captured is the conditional half."""
    request = everything(model)
    sites = request.cross
    request = ProbeRequest(
        sites, request.self_, ("conv_out", "input:mid_block", "down_blocks.1"), sites[:1], sites[:1]
    )
    plain = sampled(model, guidance=guidance)
    probed = sampled(model, guidance=guidance, probe=request, at=[0, -1])
    for step, other in zip(probed, plain, strict=True):
        assert torch.equal(step.latents, other.latents)
        assert torch.equal(step.entering, other.entering)
    assert [step.probe is not None for step in probed] == [
        step.index in (0, len(probed) - 1) for step in probed
    ]
    assert all(step.probe is None for step in plain)
    encoding = model.encode_prompts(PROMPTS)
    for step in (probed[0], probed[-1]):
        again = model.probe(
            step.entering, step.timestep, encoding.embeddings, request, pooled=encoding.pooled
        )
        assert step.probe is not None and step.probe.sizes == again.sizes
        assert step.probe.cross.keys() == set(sites) and len(step.probe.features) == 3
        assert_same(step.probe, again)
        torch.testing.assert_close(step.probe.scores, again.scores, atol=1e-4, rtol=1e-4)
        torch.testing.assert_close(step.probe.heads, again.heads, atol=1e-5, rtol=1e-4)


def test_maps_averaged_over_all_steps(sd1: FrozenDiffusion) -> None:
    request = ProbeRequest(cross=CROSS_SITES[4:6])
    name = CROSS_SITES[4]
    steps = sampled(sd1, probe=request)
    assert all(step.probe is not None for step in steps) and len(steps) == 4  # PNDM's three
    mean, count = torch.zeros(()), 0
    for step in sample(
        sd1, sd1.encode_prompts(PROMPTS), SEEDS, steps=3, guidance=5.0, probe=request
    ):
        assert step.probe is not None
        mean, count = mean + step.probe.cross[name], count + 1
    expected = torch.stack([step.probe.cross[name] for step in steps if step.probe]).mean(0)
    torch.testing.assert_close(mean / count, expected)
    torch.testing.assert_close(expected.sum(1), torch.ones(3, 4, 4))


def test_one_step_without_guidance(models_by_family: dict[str, FrozenDiffusion]) -> None:
    """SDXL-Turbo: one pass of the conditional half, and every feature of it."""
    model = models_by_family["sdxl"]
    ran: list[int] = []
    hook = model.unet.register_forward_pre_hook(lambda _, args: ran.append(args[0].shape[0]))
    request = ProbeRequest(features=("down_blocks.2", "mid_block", "up_blocks.0", "up_blocks.2"))
    (step,) = sampled(model, steps=1, guidance=0.0, probe=request, at=[-1])
    hook.remove()
    assert ran == [3] and step.index == 0 and step.timestep == 999
    assert step.probe is not None and set(step.probe.features) == set(request.features)
    assert_steps([step], by_the_pipeline(model, num_inference_steps=1, guidance_scale=0.0))


def test_the_unconditional_half_is_had_from_the_step(sd1: FrozenDiffusion) -> None:
    """Guidance put together from two probes of what the UNet read."""
    request = ProbeRequest(features=("conv_out",))
    first = sampled(sd1, probe=request, at=[0])[0]
    nothing = sd1.encode_prompts([""]).embeddings
    away = sd1.probe(first.entering, first.timestep, nothing, request).features["conv_out"]
    assert first.probe is not None
    towards = first.probe.features["conv_out"]
    scheduler = type(sd1.scheduler).from_config(sd1.scheduler.config)
    scheduler.set_timesteps(3)
    output = away + 5.0 * (towards - away)
    latents = scheduler.step(output, scheduler.timesteps[0], first.entering).prev_sample
    torch.testing.assert_close(first.latents, latents, atol=1e-5, rtol=1e-5)


def test_nothing_is_collected(sd1: FrozenDiffusion) -> None:
    """A step that the caller has dropped is gone before the next pass begins."""
    request = ProbeRequest(cross=cross_sites(sd1.unet), self_=(SELF,), features=("mid_block",))
    alive: list[list[bool]] = []
    made: list[weakref.ref[Tensor]] = []

    def look(*_: Any) -> None:
        gc.collect()
        alive.append([reference() is not None for reference in made])

    hook = sd1.unet.register_forward_pre_hook(look)
    for step in sample(
        sd1, sd1.encode_prompts(PROMPTS), SEEDS, steps=3, guidance=5.0, probe=request
    ):
        assert step.probe is not None
        kept = (step.probe.self_[SELF], step.probe.features["mid_block"])
        made += map(weakref.ref, kept)
        # Of the conditional half, and no view of both halves.
        assert all(t.untyped_storage().nbytes() == t.numel() * 4 for t in kept)
        assert not any(tensor.requires_grad for tensor in kept)
        del step, kept
    hook.remove()
    assert len(alive) == 4 and len(made) == 8
    assert alive == [[False] * 2 * passes for passes in range(4)]
    assert torch.is_grad_enabled()


def test_the_model_is_left_as_it_was(sd1: FrozenDiffusion) -> None:
    """Also by a generation that is abandoned, and by one that fails on its way."""
    modules = list(sd1.unet.modules())
    processors = dict(sd1.unet.attn_processors)
    request = ProbeRequest(cross=CROSS_SITES[4:6], self_=(SELF,), features=("mid_block",))

    def hooks() -> int:
        return sum(len(m._forward_hooks) + len(m._forward_pre_hooks) for m in modules)

    encoding = sd1.encode_prompts(PROMPTS)
    running = sample(sd1, encoding, SEEDS, steps=3, guidance=5.0, probe=request)
    next(running)
    assert hooks() == 0
    running.close()

    def full(*_: Any) -> None:
        raise MemoryError

    hook = sd1.unet.up_blocks[-1].register_forward_pre_hook(full)
    with pytest.raises(MemoryError):
        sampled(sd1, probe=request)
    hook.remove()
    assert hooks() == 0 and sd1.unet.attn_processors == processors


def test_lower_precision(folders: dict[str, Path]) -> None:
    model = FrozenDiffusion.from_pretrained(folders["sdxl"], dtype=torch.bfloat16)
    request = ProbeRequest(features=("mid_block",))
    steps = sampled(model, probe=request, at=[-1])
    assert all(step.latents.dtype == torch.bfloat16 for step in steps)
    assert steps[-1].probe is not None
    assert steps[-1].probe.features["mid_block"].dtype == torch.bfloat16
    assert torch.isfinite(model.decode_latents(steps[-1].latents).float()).all()


@pytest.mark.parametrize(
    ("changes", "match"),
    [
        ({"seeds": SEEDS[:2]}, "seeds: 2 for 3 prompts"),
        ({"seeds": []}, "seeds: none"),
        ({"steps": 0}, "steps: 0 is not in 1 … 1000"),
        ({"size": (64, 60)}, "size: .*multiples of 8"),
        ({"at": [0]}, "at: ignored: nothing is to be probed"),
        ({"probe": ProbeRequest(cross=CROSS_SITES[:1]), "at": [4]}, "at: 4: there are 4 passes"),
        ({"probe": ProbeRequest(cross=CROSS_SITES[:1]), "at": [-5]}, "at: -5: there are 4"),
        ({"probe": ProbeRequest()}, "nothing is requested"),
        ({"probe": ProbeRequest(self_=("mid_block.attn1",))}, "near: mid_block"),
    ],
)
def test_what_does_not_fit(changes: dict[str, Any], match: str, sd1: FrozenDiffusion) -> None:
    with pytest.raises(InputError, match=match):
        sampled(sd1, **changes)


def test_a_negative_prompt_needs_guidance(sd1: FrozenDiffusion) -> None:
    with pytest.raises(InputError, match="negative: ignored at guidance 1"):
        sampled(sd1, guidance=1.0, negative=sd1.encode_prompts([""]))


RETRACED = ProbeRequest(features=("down_blocks.0", "mid_block", "up_blocks.1"))


def alone(model: FrozenDiffusion, prompts: list[str]) -> PromptEncoding:
    """Prompts that were each encoded by itself."""
    return PromptEncoding.joined([model.encode_prompts([prompt]) for prompt in prompts])


@pytest.mark.parametrize("guidance", [5.0, 1.0])
@pytest.mark.parametrize(
    "name", ["PNDMScheduler", "DDIMScheduler", "EulerAncestralDiscreteScheduler"]
)
def test_the_last_pass_is_retraced_to_the_bit(
    name: str, guidance: float, model: FrozenDiffusion
) -> None:
    """From 16 bits a latent, one image at a time, out of whatever batch."""
    scheduler = getattr(diffusers, name).from_config(model.scheduler.config)
    seen: dict[str, list[Tensor]] = {name: [] for name in RETRACED.features}
    modules = dict(model.unet.named_modules())
    hooks = [
        modules[name].register_forward_hook(
            lambda _, args, output, kept=kept: kept.append(
                (output if isinstance(output, Tensor) else output[0]).clone()
            )
        )
        for name, kept in seen.items()
    ]
    try:
        options = {"steps": 4, "guidance": guidance, "scheduler": scheduler}
        *_, last = sample(model, alone(model, PROMPTS), SEEDS, retraceable=True, **options)
    finally:
        for hook in hooks:
            hook.remove()
    kept = last.entering.to(torch.float16)
    assert torch.equal(kept.to(last.entering.dtype), last.entering), "16 bits hold what was read"
    for index, prompt in enumerate(PROMPTS):
        found = retraced(
            model, kept[index : index + 1], last.timestep, model.encode_prompts([prompt]),
            RETRACED, guided=guidance > 1,
        )  # fmt: skip
        for feature in RETRACED.features:
            assert torch.equal(found.features[feature], seen[feature][index - len(PROMPTS)])
            assert len(found.features[feature]) == (2 if guidance > 1 else 1)


def test_rounding_the_last_latents_hardly_changes_an_image(sd1: FrozenDiffusion) -> None:
    ends = [
        list(sample(sd1, alone(sd1, PROMPTS), SEEDS, steps=3, guidance=5.0, retraceable=kept))[-1]
        for kept in (False, True)
    ]
    difference = (ends[0].latents - ends[1].latents).abs().max()
    assert 0 < difference < 0.01 * ends[0].latents.std()


@pytest.mark.parametrize("option", ["probe", "negative"])
def test_what_cannot_be_retraced(option: str, sd1: FrozenDiffusion) -> None:
    values = {"probe": RETRACED, "negative": sd1.encode_prompts(["a cup"])}
    with pytest.raises(InputError, match="retraceable"):
        sampled(sd1, retraceable=True, **{option: values[option]})
    several = sd1.encode_prompts(PROMPTS)
    with pytest.raises(InputError, match="3 images"):
        retraced(sd1, torch.zeros(3, 4, 8, 8), 1, several, RETRACED, guided=False)
