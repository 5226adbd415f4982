"""What a frozen diffusion model says about latents besides its attention, as plain functions.

``z`` are latents as the UNet knows them: shifted and scaled by the VAE's constants.
"""

from __future__ import annotations

import math
from collections.abc import Sequence
from typing import Any

import torch
from diffusers import AutoencoderKL
from torch import Tensor

from diffground.errors import InputError


def gaussian(size: Sequence[int], generators: Sequence[torch.Generator]) -> Tensor:
    """One draw of ``size`` per CPU generator, stacked (B, ...), float32 on the CPU.

    Drawn item by item: batching, order, device and the model's precision do not change it.
    """
    return torch.stack([torch.randn(tuple(size), generator=generator) for generator in generators])


def unscaled(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """Latents ``z`` (B, 4, h, w) as the VAE's decoder takes them, in the VAE's precision."""
    shift = vae.config.shift_factor or 0.0
    return latents.to(vae.dtype) / vae.config.scaling_factor + shift


def alpha_bar(scheduler: Any, timestep: int) -> float:
    """``ᾱ_t`` in [0, 1] of a 0-based index into the training schedule, as a Python float.

    A tensor of another dtype or device would decide those of what it is multiplied with.

    Raises:
        InputError: the schedule has no such step.
    """
    alphas = scheduler.alphas_cumprod
    if not 0 <= timestep < len(alphas):
        raise InputError("noise", "timestep", f"{timestep} is not in 0 … {len(alphas) - 1}")
    return float(alphas[timestep])


def denoised(scheduler: Any, latents: Tensor, timestep: int, output: Tensor, where: str) -> Tensor:
    """The clean latents ``z_0`` that a UNet's output implies for noisy ``z_t``, both (B, 4, h, w).

    By the scheduler's ``prediction_type``, with ``z_t = √ᾱ_t · z_0 + √(1 - ᾱ_t) · ε``: the output
    is ``ε`` (epsilon), ``√ᾱ_t · ε - √(1 - ᾱ_t) · z_0`` (v_prediction) or ``z_0`` (sample).

    Raises:
        InputError: naming ``where``, for another prediction type, a step outside the schedule, or
            ``ε`` from a step of pure noise (``ᾱ_t`` = 0), which says nothing about ``z_0``.
    """
    assert latents.shape == output.shape, (latents.shape, output.shape)
    alpha = alpha_bar(scheduler, timestep)
    signal, noise = math.sqrt(alpha), math.sqrt(1 - alpha)
    kind = scheduler.config.prediction_type
    if kind == "sample":
        return output
    if kind == "v_prediction":
        return signal * latents - noise * output
    if kind != "epsilon":
        raise _other_prediction(where, kind)
    if not signal:
        raise InputError("noise", "timestep", f"{timestep} is pure noise: ε does not tell z_0")
    return (latents - noise * output) / signal


def lesson(
    scheduler: Any, latents: Tensor, noise: Tensor, timesteps: Tensor, where: str
) -> tuple[Tensor, Tensor]:
    """What a UNet is trained on: noisy latents, and the output that it should give for them.

    Args:
        latents, noise: ``z_0`` and ``ε``, both (B, 4, h, w).
        timesteps: (B,), 0-based indices into the training schedule.

    Returns:
        ``z_t`` and, by the scheduler's ``prediction_type``, what :func:`denoised` reads.

    Raises:
        InputError: naming ``where``, for another prediction type.
    """
    alphas = torch.tensor([alpha_bar(scheduler, int(t)) for t in timesteps], dtype=torch.float64)
    signal, noisiness = (root.sqrt().to(latents).view(-1, 1, 1, 1) for root in (alphas, 1 - alphas))
    noisy = signal * latents + noisiness * noise
    match scheduler.config.prediction_type:
        case "epsilon":
            return noisy, noise
        case "v_prediction":
            return noisy, signal * noise - noisiness * latents
        case "sample":
            return noisy, latents
        case kind:
            raise _other_prediction(where, kind)


def decoder_width(vae: AutoencoderKL) -> int:
    """Channels of :func:`decoder_feature`: 512 for Stable Diffusion."""
    return int(vae.decoder.up_blocks[_doubling_block(vae)].resnets[-1].out_channels)


def decoder_feature(vae: AutoencoderKL, latents: Tensor) -> Tensor:
    """The VAE decoder's feature (B, C, 2h, 2w) of latents ``z`` (B, 4, h, w).

    It is what leaves the first up block that enlarges (with its upsampler): 1/4 of the image's
    resolution where latents have 1/8. The rest of the decoder, by far its larger part, never runs.
    In the VAE's precision; gradients flow to the latents.
    """
    last = _doubling_block(vae)
    feature = unscaled(vae, latents)
    if vae.post_quant_conv is not None:
        feature = vae.post_quant_conv(feature)
    feature = vae.decoder.mid_block(vae.decoder.conv_in(feature))
    for block in vae.decoder.up_blocks[: last + 1]:
        feature = block(feature)
    return feature


def _doubling_block(vae: AutoencoderKL) -> int:
    """The number of the first up block that has an upsampler."""
    for number, block in enumerate(vae.decoder.up_blocks):
        if block.upsamplers is not None:
            return number
    raise InputError("vae", "block_out_channels", "the decoder never enlarges: no 1/4 feature")


def _other_prediction(where: str, kind: str) -> InputError:
    return InputError(where, "prediction_type", f"{kind!r}: epsilon, v_prediction or sample")
