"""Generation with the frozen model, step by step, probed on the way.

encoding = model.encode_prompts(["a photograph of a dog and a cat"])
seeds = [derive_seed(run_seed, item)]
request = ProbeRequest(features=("up_blocks.3",))
for step in sample(model, encoding, seeds, steps=50, guidance=7.5, probe=request, at=[-1]):
    if step.probe is not None:
        keep(step.probe.features)
images = model.decode_latents(step.latents)

``B`` images · ``h, w`` sides of the latents

The contract:

- The images are those of diffusers' ``StableDiffusionPipeline`` or ``StableDiffusionXLPipeline``
  for the same prompts, initial noise, scheduler, steps and guidance.
- All randomness of an image comes from its own seed: first the initial noise, then what a
  stochastic scheduler adds in every step. Neither the batch an image is in nor its place there
  changes its noise; what remains is the rounding of the batched kernels.
- A probe changes no image, not in the last bit: maps are computed beside the pass (:mod:`.watch`).
  It captures the conditional half, at the steps asked for, as :meth:`FrozenDiffusion.probe` would.
- Nothing is collected. A step is handed over when it is made and forgotten here, so an average of
  maps over all steps needs the memory of one step.
- The unconditional half, or what a step was not asked for, is had afterwards:
  ``model.probe(step.entering, step.timestep, …)`` reads again what the UNet read.
- Of an image that was sampled ``retraceable``, the last pass can be run again from its latents in
  16 bits and its prompt, whatever batch it was in: :func:`retraced` gives what ran, to the last bit
  on the same device. For that the last pass takes each image by itself, as the kernels of another
  batch round otherwise, and reads latents that were rounded to float16; the image is theirs.
"""

from __future__ import annotations

import dataclasses
import inspect
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.latents import gaussian
from diffground.backbone.probe import ProbeRequest, ProbeResult
from diffground.backbone.text import PromptEncoding
from diffground.backbone.watch import watched
from diffground.errors import InputError


@dataclass(frozen=True)
class Step:
    """One pass of the UNet, and where it took the latents.

    Attributes:
        index: the number of the pass, from 0. Some schedulers make more passes than steps: PNDM
            one more, those of second order nearly twice as many.
        timestep: of the training schedule, not always whole.
        entering: (B, 4, h, w), the noisy latents as the UNet read them, scaled by the scheduler.
        latents: (B, 4, h, w) after the scheduler's step; after the last one, the images'.
        probe: what was asked for at this step, of the conditional half, or None.
    """

    index: int
    timestep: float
    entering: Tensor
    latents: Tensor
    probe: ProbeResult | None


def sample(
    model: FrozenDiffusion,
    encoding: PromptEncoding,
    seeds: Sequence[int],
    *,
    steps: int,
    guidance: float,
    negative: PromptEncoding | None = None,
    size: tuple[int, int] | None = None,
    scheduler: Any = None,
    probe: ProbeRequest | None = None,
    at: Sequence[int] | None = None,
    retraceable: bool = False,
) -> Iterator[Step]:
    """Denoises one image per seed, pass by pass.

    Args:
        encoding: of B prompts, or of one for all the seeds.
        seeds: B of them, such as ``derive_seed(run_seed, item)``.
        steps: of the scheduler. One to four for SDXL-Turbo.
        guidance: the scale g of ``ε(∅) + g · (ε(prompt) - ε(∅))``. At 1 and below there is no
            guidance, and the unconditional half is not run: SDXL-Turbo is made for that.
        negative: what guidance leads away from, B prompts or one. None: the empty prompt, which is
            for SDXL an embedding of zeros, as in its released models.
        size: (height, width) in pixels; None for the size that the UNet was trained on.
        scheduler: another one than the folder's, such as
            ``DDIMScheduler.from_config(model.scheduler.config)``. Only its configuration is read.
        probe: what to capture.
        at: the passes to capture at, negative ones counted from the end; None for every one.
        retraceable: lets :func:`retraced` run the last pass again. Each prompt must then have been
            encoded by itself (:meth:`PromptEncoding.joined`). Without ``probe`` and ``negative``.

    Raises:
        InputError: seeds, prompts, sides, steps or passes that do not fit, and options that would
            be ignored; names that the UNet does not have.
    """
    batch, guided = len(seeds), guidance > 1
    if not seeds:
        raise InputError("sampler", "seeds", "none: one for every image is needed")
    if retraceable and (probe is not None or negative is not None):
        reason = "retraced() probes, and knows no negative prompt but the empty one"
        raise InputError("sampler", "retraceable", reason)
    if guided:
        negative = negative or _nothing(model)
    elif negative is not None:
        raise InputError("sampler", "negative", f"ignored at guidance {guidance}: it needs over 1")
    # Both halves of guidance are one pass of 2 B rows, the conditional one last.
    encodings = [encoding] if negative is None else [negative, encoding]
    scheduler = _ready(model.scheduler if scheduler is None else scheduler, steps, model.device)
    generators = [torch.Generator("cpu").manual_seed(seed) for seed in seeds]
    noise = gaussian(_shape(model, size), generators).to(model.device, model.dtype)
    latents = noise * scheduler.init_noise_sigma
    text = _Text.of(model, encodings, latents)
    draws = "generator" in inspect.signature(scheduler.step).parameters
    extra = {"generator": generators} if draws else {}
    asked = _passes(len(scheduler.timesteps), probe, at)
    for index, timestep in enumerate(scheduler.timesteps):
        watching: AbstractContextManager[ProbeResult | None] = nullcontext()
        if probe is not None and index in asked:
            where = str(model.folder / "unet")
            watching = watched(model.unet, probe, slice(-batch, None), where=where)
        # Not around the loop: what the caller does with a step may well need gradients.
        with torch.no_grad():
            entering = scheduler.scale_model_input(latents, timestep)
            if retraceable and index == len(scheduler.timesteps) - 1:
                entering, result = entering.to(torch.float16).to(latents.dtype), None
                output = _alone(model, entering, timestep, text)
            else:
                with watching as result:
                    output = text.read(model, entering, timestep)
            if guided:
                away, towards = output.chunk(2)
                output = away + guidance * (towards - away)
            latents = scheduler.step(output, timestep, latents, **extra, return_dict=False)[0]
        step = Step(index, timestep.item(), entering, latents, result)
        del watching, result  # the next pass has to fit into memory without it
        yield step
        del step


@torch.no_grad()
def retraced(
    model: FrozenDiffusion,
    entering: Tensor,
    timestep: float,
    encoding: PromptEncoding,
    request: ProbeRequest,
    *,
    guided: bool,
) -> ProbeResult:
    """Probes the last pass of one image again, which was sampled ``retraceable``.

    Args:
        entering: (1, 4, h, w), the last step's, of any dtype that float16 fits into.
        timestep: the last step's.
        encoding: of its prompt alone.
        guided: whether guidance was above 1, away from the empty prompt. What is captured then has
            a batch of two, the unconditional half first; else of one.

    Raises:
        InputError: several images, or names that the UNet does not have.
    """
    if entering.shape[0] != 1:
        raise InputError("sampler", "entering", f"{entering.shape[0]} images: a pass retraces one")
    entering = entering.to(model.device, model.dtype)
    text = _Text.of(model, [_nothing(model), encoding] if guided else [encoding], entering)
    with watched(model.unet, request, slice(None), where=str(model.folder / "unet")) as result:
        text.read(model, entering, timestep)
    return result


@dataclass(frozen=True)
class _Text:
    """What the UNet reads of the prompts of B images: rows of one half, then of the other."""

    context: Tensor  # (B or 2 B, L, C)
    added: dict[str, Tensor] | None  # SDXL's pooled text and time ids, as many rows

    @classmethod
    def of(
        cls, model: FrozenDiffusion, encodings: Sequence[PromptEncoding], latents: Tensor
    ) -> _Text:
        batch = latents.shape[0]
        texts = [_of(e.pooled, batch) for e in encodings if e.pooled is not None]
        pooled = torch.cat(texts) if texts else None
        return cls(
            torch.cat([_of(e.embeddings, batch) for e in encodings]),
            model.added(torch.cat([latents] * len(encodings)), pooled),
        )

    def read(self, model: FrozenDiffusion, entering: Tensor, timestep: Tensor | float) -> Tensor:
        """The UNet's output for latents (B, 4, h, w), as many rows as the context has."""
        output: Tensor = model.unet(
            torch.cat([entering] * (self.context.shape[0] // entering.shape[0])),
            timestep,
            encoder_hidden_states=self.context,
            added_cond_kwargs=self.added,
            return_dict=False,
        )[0]
        return output

    def one(self, index: int, batch: int) -> _Text:
        """That of one image."""
        added = self.added and {n: t[index::batch].contiguous() for n, t in self.added.items()}
        return _Text(self.context[index::batch].contiguous(), added)


def _alone(model: FrozenDiffusion, entering: Tensor, timestep: Tensor, text: _Text) -> Tensor:
    """The UNet's output for B images, each in a pass of its own."""
    batch = entering.shape[0]
    outputs = [
        text.one(index, batch).read(model, entering[index : index + 1], timestep)
        for index in range(batch)
    ]
    return torch.stack(outputs, dim=1).flatten(0, 1)


def _nothing(model: FrozenDiffusion) -> PromptEncoding:
    """The empty prompt, which the released SDXL models know as zeros."""
    encoding = model.encode_prompts([""])
    if encoding.pooled is None:
        return encoding
    return dataclasses.replace(
        encoding,
        embeddings=torch.zeros_like(encoding.embeddings),
        pooled=torch.zeros_like(encoding.pooled),
    )


def _of(tensor: Tensor, batch: int) -> Tensor:
    """One row for all, or ``batch`` rows already."""
    if tensor.shape[0] not in (1, batch):
        raise InputError("sampler", "seeds", f"{batch} for {tensor.shape[0]} prompts")
    return tensor.expand(batch, *tensor.shape[1:])


def _ready(scheduler: Any, steps: int, device: torch.device) -> Any:
    """A scheduler of the same configuration, set to its first step: it counts while it runs."""
    most = int(scheduler.config.num_train_timesteps)
    if not 1 <= steps <= most:
        raise InputError("sampler", "steps", f"{steps} is not in 1 … {most}")
    fresh = type(scheduler).from_config(scheduler.config)
    fresh.set_timesteps(steps, device=device)
    return fresh


def _passes(count: int, probe: ProbeRequest | None, at: Sequence[int] | None) -> set[int]:
    """The passes to capture at, counted from 0."""
    if probe is None:
        if at is not None:
            raise InputError("sampler", "at", "ignored: nothing is to be probed")
        return set()
    asked = range(count) if at is None else at
    if wrong := [index for index in asked if not -count <= index < count]:
        raise InputError("sampler", "at", f"{wrong[0]}: there are {count} passes, from 0")
    return {index % count for index in asked}


def _shape(model: FrozenDiffusion, size: tuple[int, int] | None) -> tuple[int, int, int]:
    """(4, h, w) of one image's latents."""
    channels, stride = int(model.unet.config.in_channels), model.latent_stride
    if size is None:
        trained = model.unet.config.sample_size
        height, width = (trained, trained) if isinstance(trained, int) else trained
        return channels, height, width
    if any(side <= 0 or side % stride for side in size):
        raise InputError("sampler", "size", f"{size}: (height, width) in multiples of {stride}")
    return channels, size[0] // stride, size[1] // stride
