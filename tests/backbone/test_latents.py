"""Lessons for a UNet: noisy latents, and the output that tells the clean ones again."""

from __future__ import annotations

import pytest
import torch
from diffusers import DDIMScheduler, DDPMScheduler

from diffground.backbone.latents import denoised, lesson
from diffground.errors import InputError


@pytest.mark.parametrize("kind", ["epsilon", "v_prediction", "sample"])
def test_a_lesson_is_diffusers_and_denoises_to_the_clean_latents(kind: str) -> None:
    scheduler = DDPMScheduler(beta_schedule="scaled_linear", prediction_type=kind)
    clean, noise = torch.randn(2, 3, 4, 8, 8, generator=torch.Generator().manual_seed(0))
    timesteps = torch.tensor([3, 400, 999])
    noisy, target = lesson(scheduler, clean, noise, timesteps, "scheduler")
    torch.testing.assert_close(noisy, scheduler.add_noise(clean, noise, timesteps))
    match kind:
        case "epsilon":
            expected = noise
        case "v_prediction":
            expected = scheduler.get_velocity(clean, noise, timesteps)
        case _:
            expected = clean
    torch.testing.assert_close(target, expected)
    for item, timestep in enumerate(timesteps.tolist()):
        one = slice(item, item + 1)
        found = denoised(scheduler, noisy[one], timestep, target[one], "scheduler")
        torch.testing.assert_close(found, clean[one], atol=1e-4, rtol=1e-4)


def test_another_prediction_is_refused() -> None:
    scheduler = DDIMScheduler()
    scheduler.register_to_config(prediction_type="flow")
    clean = torch.zeros(1, 4, 8, 8)
    with pytest.raises(InputError, match="'flow': epsilon, v_prediction or sample"):
        lesson(scheduler, clean, clean, torch.tensor([1]), "scheduler")
