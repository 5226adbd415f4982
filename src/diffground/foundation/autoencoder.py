"""The mini VAE: an ``AutoencoderKL`` that shrinks images eight times, to four channels."""

from __future__ import annotations

import math
from typing import Any, cast

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn

from diffground.foundation.config import AutoencoderRecipe
from diffground.foundation.fitting import Workshop
from diffground.foundation.scenes import CaptionedScene, Scenes, picture, pictures

LATENT_CHANNELS = 4
NORM_GROUPS = 8  # of the UNet too
KL_WEIGHT = 1e-6


def build_autoencoder(recipe: AutoencoderRecipe) -> AutoencoderKL:
    """A freshly initialised autoencoder."""
    return AutoencoderKL(
        in_channels=3,
        out_channels=3,
        block_out_channels=recipe.channels,
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=LATENT_CHANNELS,
        norm_num_groups=NORM_GROUPS,
    )


class _Objective(nn.Module):
    """L1 + L2 of the reconstruction, and a little KL, on crops and on whole images.

    Crops show more scenes for the same cost; whole images have the statistics that GroupNorm and
    the middle attention will meet later. A batch of whole images is cut short to cost as much.
    """

    def __init__(self, vae: AutoencoderKL, recipe: AutoencoderRecipe) -> None:
        super().__init__()
        self.vae, self.recipe = vae, recipe

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The losses of a batch, float (B, 3, H, W) in [-1, 1]."""
        side, crop = images.shape[-1], self.recipe.crop
        if crop < side and torch.rand(()) > self.recipe.whole_share:
            y, x = (int(torch.randint(0, (side - crop) // 8 + 1, ())) * 8 for _ in range(2))
            images = images[..., y : y + crop, x : x + crop]
        else:
            images = images[: max(1, math.ceil(len(images) * crop**2 / side**2))]
        if torch.rand(()) < 0.5:  # noqa: PLR2004
            images = images.flip(-1)
        posterior = self.vae.encode(images).latent_dist
        decoded = self.vae.decode(posterior.sample()).sample
        error = decoded - images
        l1, l2, kl = error.abs().mean(), error.square().mean(), posterior.kl().mean()
        return {"loss": l1 + 4 * l2 + KL_WEIGHT * kl, "l1": l1, "l2": l2, "kl": kl}


def train_autoencoder(shop: Workshop) -> AutoencoderKL:
    """Trains the autoencoder and sets its scaling factor, so that latents have unit variance."""
    recipe = shop.recipe.autoencoder
    torch.manual_seed(recipe.train.seed)
    scenes = shop.scenes(recipe.scenes)
    vae = build_autoencoder(recipe)
    shop.fit(
        "autoencoder",
        _Objective(vae, recipe),
        lambda model, images: model(images),
        Scenes(scenes, picture),
        recipe.train,
        key=recipe.model_dump_json(),
    )
    latents = encode(vae, scenes[:256])
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return vae


@torch.no_grad()
def encode(vae: AutoencoderKL, scenes: list[CaptionedScene], batch: int = 32) -> Tensor:
    """Posterior means of the scenes' images, not scaled, float (S, 4, H/8, W/8) on the CPU."""
    parts = []
    for start in range(0, len(scenes), batch):
        images = pictures(scenes[start : start + batch])
        parts.append(cast(Any, vae.encode(images.to(vae.device))).latent_dist.mean.cpu())
    return torch.cat(parts)
