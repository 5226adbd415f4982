"""The mini Stable Diffusion: a UNet of SD-1.x topology and its text encoder, trained together.

Two choices make the words matter, and with them attention localise: v-prediction, and time steps
drawn towards noise. With epsilon-prediction and uniform time steps nearly all of the loss is won
without reading the prompt.
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, cast

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.data import Dataset, StackDataset
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffground.foundation.autoencoder import LATENT_CHANNELS, NORM_GROUPS
from diffground.foundation.config import DiffusionPhase, DiffusionRecipe
from diffground.foundation.fitting import Workshop
from diffground.foundation.scenes import CaptionedScene
from diffground.foundation.tokenizer import MAX_LENGTH
from diffground.training.batches import drawn


def build_unet(recipe: DiffusionRecipe, sample_size: int) -> UNet2DConditionModel:
    """Four levels, two layers per block, sixteen transformer blocks, as in SD 1.x."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        block_out_channels=recipe.channels,
        layers_per_block=2,
        cross_attention_dim=recipe.text_width,
        attention_head_dim=recipe.heads,  # the number of heads, by diffusers' SD-1.x convention
        norm_num_groups=NORM_GROUPS,
    )


def text_config(
    tokenizer: CLIPTokenizer, width: int, layers: int, heads: int, projection: int
) -> CLIPTextConfig:
    """CLIP's text transformer at some size, for the tokens of ``tokenizer``."""
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=width,
        intermediate_size=4 * width,
        num_hidden_layers=layers,
        num_attention_heads=heads,
        max_position_embeddings=MAX_LENGTH,
        projection_dim=projection,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
    )


def build_scheduler() -> DDIMScheduler:
    """Stable Diffusion's noise schedule, with v-prediction."""
    return DDIMScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        clip_sample=False,
        set_alpha_to_one=False,
        steps_offset=1,
    )


def token_ids(tokenizer: CLIPTokenizer, texts: list[str]) -> Tensor:
    """Padded to 77 with the end token, as Stable Diffusion does: int16 (T, 77)."""
    encoded = tokenizer(texts, padding="max_length", truncation=True, return_tensors="pt")
    return cast(Tensor, encoded["input_ids"]).to(torch.int16)


def lessons(
    latents: Tensor, scenes: Sequence[CaptionedScene], tokenizer: CLIPTokenizer
) -> Dataset[Any]:
    """What diffusion models learn from: scaled ``latents`` (S, 4, h, w), and the tokens (S, 77) of
    three captions each: a ``prompt``, the same without colours (``bare``), and a ``narrative``."""
    captions = {
        "prompt": [scene.prompt.text for scene in scenes],
        "bare": [scene.bare.text for scene in scenes],
        "narrative": [scene.narrative.text for scene in scenes],
    }
    columns: dict[str, Any] = {
        name: token_ids(tokenizer, texts) for name, texts in captions.items()
    }
    return StackDataset(**columns, latents=cast(Any, latents))


def velocity_loss(
    velocity: Callable[[Tensor, Tensor, Tensor], Tensor],
    batch: dict[str, Tensor],
    empty: Tensor,
    recipe: DiffusionRecipe,
    phase: DiffusionPhase,
) -> dict[str, Tensor]:
    """Mean squared error of the predicted velocity, at time steps and captions drawn anew.

    Args:
        velocity: a model's prediction (B, 4, h, w) from noisy latents, time steps (B,) and tokens
            (B, 77).
        batch: of :func:`lessons`.
        empty: the tokens (1, 77) of the empty prompt.
    """
    latents, scheduler = batch["latents"], build_scheduler()
    # Drawn on the CPU, so that a GPU sees the same numbers.
    count = len(latents)
    told = drawn(lambda n: torch.rand(n, 1), count) < recipe.narratives
    silent = drawn(lambda n: torch.rand(n, 1), count) < recipe.empty
    draw = drawn(torch.rand, count).pow(phase.timestep_power)
    noise = drawn(lambda n: torch.randn(n, *latents.shape[1:]), count)
    bare = drawn(lambda n: torch.rand(n, 1), count) < phase.bare
    timesteps = (draw * scheduler.config["num_train_timesteps"]).long()
    device = latents.device
    told, silent, bare, noise, timesteps = (
        x.to(device) for x in (told, silent, bare, noise, timesteps)
    )
    ids = torch.where(bare, batch["bare"], batch["prompt"])
    ids = torch.where(told, batch["narrative"], ids)
    ids = torch.where(silent, empty, ids).long()
    noisy = cast(Any, scheduler).add_noise(latents, noise, timesteps)
    target = scheduler.get_velocity(latents, noise, cast(Any, timesteps))
    found = velocity(noisy, timesteps, ids)
    return {"loss": (found.float() - target.float()).square().mean()}


class Objective(nn.Module):
    """UNet and text encoder, whose loss is :func:`velocity_loss`."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text: CLIPTextModel,
        empty: Tensor,
        recipe: DiffusionRecipe,
    ) -> None:
        super().__init__()
        self.unet, self.text, self.recipe = unet, text, recipe
        self.phase = recipe.phases[0]
        self.register_buffer("empty", empty, persistent=False)

    def _velocity(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        context = self.text(input_ids=ids).last_hidden_state
        return cast(Tensor, self.unet(noisy, timesteps, context).sample)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of a batch of :func:`lessons`."""
        empty = cast(Tensor, self.empty)
        return velocity_loss(self._velocity, batch, empty, self.recipe, self.phase)


def train_diffusion(
    shop: Workshop, data: Dataset[dict[str, Tensor]], tokenizer: CLIPTokenizer, vae: str
) -> tuple[UNet2DConditionModel, CLIPTextModel]:
    """Trains UNet and text encoder on latents and captions; returns their averaged weights.

    Args:
        data: see :func:`lessons`.
        vae: the hash of the VAE's weights; checkpoints made with another one are refused.
    """
    recipe = shop.recipe.diffusion
    torch.manual_seed(recipe.phases[0].train.seed)
    unet = build_unet(recipe, data[0]["latents"].shape[-1]).to(memory_format=torch.channels_last)
    width, layers, heads = recipe.text_width, recipe.text_layers, recipe.text_heads
    text = CLIPTextModel(text_config(tokenizer, width, layers, heads, width))
    objective = Objective(unet, text, token_ids(tokenizer, [""]), recipe)
    fit = partial(shop.fit, "diffusion", objective, lambda model, batch: model(batch), data)
    for number, phase in enumerate(recipe.phases, 1):
        objective.phase = phase
        known = recipe.model_copy(update={"phases": recipe.phases[:number]})
        fit(phase.train, key=vae + known.model_dump_json(), below=f"phase-{number}")
    return unet, text
