"""The VAE decoder's feature at 1/4, and the clean latents that the UNet's output implies."""

import math
from pathlib import Path

import pytest
import torch
from diffusers import AutoencoderKL, DDIMScheduler

from diffground.backbone import latents as of_latents
from diffground.backbone.frozen import FrozenDiffusion
from diffground.errors import InputError


def latents(seed: int = 0, *size: int) -> torch.Tensor:
    generator = torch.Generator().manual_seed(seed)
    return torch.randn(2, 4, *(size or (4, 6)), generator=generator)


def of_the_full_decoder(vae: AutoencoderKL, unscaled: torch.Tensor) -> torch.Tensor:
    """What leaves up_blocks.0 while the whole decoder runs."""
    seen = []
    hook = vae.decoder.up_blocks[0].register_forward_hook(lambda *args: seen.append(args[2]))
    vae.decode(unscaled)
    hook.remove()
    return seen[0]


@torch.no_grad()
def test_feature_is_the_full_decoders(model: FrozenDiffusion) -> None:
    z = latents()
    feature = model.decoder_feature(z)
    assert feature.shape == (2, model.decoder_width, 8, 12)
    expected = of_the_full_decoder(model.vae, z / model.vae.config.scaling_factor)
    torch.testing.assert_close(feature, expected, rtol=0, atol=0)


@torch.no_grad()
def test_it_stops_there(sd1: FrozenDiffusion) -> None:
    ran = []
    rest = [*sd1.vae.decoder.up_blocks[1:], sd1.vae.decoder.conv_norm_out, sd1.vae.encoder.conv_in]
    hooks = [part.register_forward_hook(lambda *_: ran.append(True)) for part in rest]
    sd1.decoder_feature(latents())
    for hook in hooks:
        hook.remove()
    assert not ran


def test_gradients_flow_to_the_latents(sd1: FrozenDiffusion) -> None:
    z = latents().requires_grad_()
    sd1.decoder_feature(z).square().mean().backward()
    assert z.grad is not None and z.grad.abs().sum() > 0
    assert all(parameter.grad is None for parameter in sd1.vae.parameters())


@torch.no_grad()
def test_the_vae_may_have_another_precision(folders: dict[str, Path]) -> None:
    half = FrozenDiffusion.from_pretrained(folders["sd1"], dtype=torch.float16)
    full = FrozenDiffusion.from_pretrained(folders["sd1"])
    z = latents().half()
    feature = half.decoder_feature(z)
    assert half.dtype == torch.float16 and feature.dtype == half.vae.dtype == torch.float32
    expected = full.decoder_feature(z.float())
    torch.testing.assert_close(feature, expected, rtol=1e-2, atol=1e-2)  # weights were halved


@torch.no_grad()
def test_a_shift_and_no_post_quant_conv(sd1: FrozenDiffusion) -> None:
    torch.manual_seed(0)
    config = {key: value for key, value in sd1.vae.config.items() if not key.startswith("_")}
    config.update(shift_factor=0.3, use_post_quant_conv=False)
    vae = AutoencoderKL(**config).eval()
    assert vae.post_quant_conv is None
    z = latents()
    expected = of_the_full_decoder(vae, z / vae.config.scaling_factor + 0.3)
    torch.testing.assert_close(of_latents.decoder_feature(vae, z), expected, rtol=0, atol=0)


def test_a_decoder_that_never_enlarges() -> None:
    vae = AutoencoderKL(block_out_channels=(8,), norm_num_groups=4)
    with pytest.raises(InputError, match="block_out_channels"):
        of_latents.decoder_width(vae)


def outputs(clean: torch.Tensor, noise: torch.Tensor, alpha: float) -> dict[str, torch.Tensor]:
    """What a perfect UNet answers, by prediction type."""
    return {
        "epsilon": noise,
        "v_prediction": math.sqrt(alpha) * noise - math.sqrt(1 - alpha) * clean,
        "sample": clean,
    }


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
@pytest.mark.parametrize("timestep", [0, 150, 999])
def test_denoised_finds_the_clean_latents(
    kind: str, timestep: int, sd1: FrozenDiffusion, monkeypatch: pytest.MonkeyPatch
) -> None:
    scheduler = DDIMScheduler.from_config(sd1.scheduler.config, prediction_type=kind)
    monkeypatch.setattr(sd1, "scheduler", scheduler)
    clean = latents().double()
    noise = latents(1).double()
    alpha = float(scheduler.alphas_cumprod[timestep])
    noisy = math.sqrt(alpha) * clean + math.sqrt(1 - alpha) * noise
    found = sd1.denoised(noisy, timestep, outputs(clean, noise, alpha)[kind])
    torch.testing.assert_close(found, clean)
    velocity = scheduler.get_velocity(clean, noise, torch.tensor([timestep, timestep]))
    torch.testing.assert_close(
        velocity, outputs(clean, noise, alpha)["v_prediction"], atol=1e-6, rtol=1e-6
    )
    # The dtype is that of the latents, whatever the schedule's is.
    half = sd1.denoised(noisy.half(), timestep, outputs(clean, noise, alpha)[kind].half())
    assert half.dtype == torch.float16


def test_denoised_inverts_add_noise(model: FrozenDiffusion) -> None:
    z = latents()[:1]
    noisy = model.add_noise(z, 300, [7])
    noise = torch.randn(z.shape[1:], generator=torch.Generator().manual_seed(7))[None]
    alpha = float(model.scheduler.alphas_cumprod[300])
    kind = model.scheduler.config.prediction_type
    output = outputs(z, noise, alpha)[kind]
    torch.testing.assert_close(model.denoised(noisy, 300, output), z, atol=1e-5, rtol=1e-5)


def test_denoised_errors(sd1: FrozenDiffusion, monkeypatch: pytest.MonkeyPatch) -> None:
    z = latents()
    with pytest.raises(InputError, match="1000 is not in 0"):
        sd1.denoised(z, 1000, z)
    config = sd1.scheduler.config
    flat = DDIMScheduler.from_config(config, rescale_betas_zero_snr=True)
    flat.alphas_cumprod[-1] = 0.0
    monkeypatch.setattr(sd1, "scheduler", flat)
    with pytest.raises(InputError, match="pure noise"):
        sd1.denoised(z, 999, z)
    flow = DDIMScheduler.from_config(config, prediction_type="flow_prediction")
    monkeypatch.setattr(sd1, "scheduler", flow)
    with pytest.raises(InputError, match="'flow_prediction'"):
        sd1.denoised(z, 5, z)
