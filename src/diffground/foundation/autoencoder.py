"""The mini VAE: an ``AutoencoderKL`` that shrinks images eight times, to four channels."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from diffusers import AutoencoderKL
from torch import Tensor, nn
from transformers import Mask2FormerForUniversalSegmentation

from diffground.foundation.config import AutoencoderRecipe
from diffground.foundation.fitting import Workshop
from diffground.foundation.scenes import CaptionedScene, Scenes, picture, pictures
from diffground.training.processes import processes

LATENT_CHANNELS = 4
NORM_GROUPS = 8  # of the UNet too


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
    """L1 + L2 of the reconstruction, a little KL, and on whole images what a segmenter sees.

    Crops show more scenes for the same cost; whole images have the statistics that GroupNorm and
    the middle attention will meet later. A batch of whole images is cut short to cost as much.
    The features of a segmenter's backbone play the part that LPIPS plays in the real one: pixels
    alone do not say that an eye is missing.
    """

    def __init__(
        self,
        vae: AutoencoderKL,
        features: Callable[[Tensor], Sequence[Tensor]],
        recipe: AutoencoderRecipe,
    ) -> None:
        super().__init__()
        self.vae, self.features, self.recipe = vae, features, recipe
        self.whole_share = recipe.whole_share

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The losses of a batch, float (B, 3, H, W) in [-1, 1]."""
        side, crop = images.shape[-1], self.recipe.crop
        part = crop < side and bool(torch.rand(()) > self.whole_share)
        if part:
            y, x = (int(torch.randint(0, (side - crop) // 8 + 1, ())) * 8 for _ in range(2))
            images = images[..., y : y + crop, x : x + crop]
        else:
            images = images[: max(1, math.ceil(len(images) * crop**2 / side**2))]
        if torch.rand(()) < 0.5:  # noqa: PLR2004
            images = images.flip(-1)
        posterior = self.vae.encode(images).latent_dist
        decoded = self.vae.decode(posterior.sample()).sample
        error = decoded - images
        l1, l2 = error.abs().mean(), error.square().mean()
        kl = posterior.kl().mean() / posterior.mean[0, 0].numel()
        losses = {"loss": l1 + 4 * l2 + self.recipe.kl_weight * kl, "l1": l1, "l2": l2, "kl": kl}
        if not part:
            with torch.no_grad():
                wanted = self.features(images)
            losses["features"] = unlike(self.features(decoded), wanted)
            losses["loss"] = losses["loss"] + self.recipe.feature_weight * losses["features"]
        return losses


def unlike(found: Sequence[Tensor], wanted: Sequence[Tensor]) -> Tensor:
    """L1 between features, relative to those that are wanted; the mean over them, a scalar."""
    pairs = zip(found, wanted, strict=True)
    return torch.stack([(a - b).abs().mean() / b.abs().mean() for a, b in pairs]).mean()


def train_autoencoder(
    shop: Workshop, segmenter: Mask2FormerForUniversalSegmentation, weights: str
) -> AutoencoderKL:
    """Trains the autoencoder and sets its scaling factor, so that latents have unit variance.

    Checkpoints made with another segmenter are refused: ``weights`` is the hash of this one's.
    """
    recipe = shop.recipe.autoencoder
    torch.manual_seed(recipe.train.seed)
    scenes = shop.scenes(recipe.scenes)
    vae: Any = build_autoencoder(recipe)
    vae.to(memory_format=torch.channels_last)
    backbone = segmenter.to(processes().device).model.pixel_level_module.encoder
    objective = _Objective(vae, lambda images: backbone(images).feature_maps, recipe)
    fit = partial(
        shop.fit, "autoencoder", objective, lambda model, images: model(images),
        Scenes(scenes, picture),
    )  # fmt: skip
    fit(recipe.train, key=weights + recipe.model_dump_json(exclude={"refine"}))
    for part in (vae.encoder, vae.quant_conv):
        part.requires_grad_(False)
    objective.whole_share = 1.0
    fit(recipe.refine, key=weights + recipe.model_dump_json(), below="refine")
    latents = encode(vae, scenes[:256])
    vae.register_to_config(scaling_factor=float(1 / latents.std()))
    return cast(AutoencoderKL, vae)


@torch.no_grad()
def decode(vae: AutoencoderKL, scenes: list[CaptionedScene], batch: int = 32) -> Tensor:
    """What the autoencoder makes of the scenes' images, uint8 (S, 3, H, W) on the CPU."""
    parts = []
    for part in encode(vae, scenes, batch).split(batch):
        image = cast(Any, vae.decode(part.to(vae.device))).sample
        parts.append(image.add(1).mul(127.5).round().clamp(0, 255).to(torch.uint8).cpu())
    return torch.cat(parts)


@torch.no_grad()
def encode(vae: AutoencoderKL, scenes: list[CaptionedScene], batch: int = 32) -> Tensor:
    """Posterior means of the scenes' images, not scaled, float (S, 4, H/8, W/8) on the CPU."""
    parts = []
    for start in range(0, len(scenes), batch):
        images = pictures(scenes[start : start + batch])
        parts.append(cast(Any, vae.encode(images.to(vae.device))).latent_dist.mean.cpu())
    return torch.cat(parts)
