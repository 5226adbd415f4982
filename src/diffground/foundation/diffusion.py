"""The mini Stable Diffusion: a UNet of SD-1.x topology and its text encoder, trained together.

Two choices make the words matter, and with them attention localise: v-prediction, and time steps
drawn towards noise. With epsilon-prediction and uniform time steps nearly all of the loss is won
without reading the prompt.
"""

from __future__ import annotations

from collections.abc import Callable
from pathlib import Path
from typing import Any, cast

import torch
from diffusers import DDIMScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffground.foundation.autoencoder import LATENT_CHANNELS
from diffground.foundation.config import DiffusionRecipe
from diffground.foundation.tokenizer import MAX_LENGTH
from diffground.training.config import TrainConfig
from diffground.training.loop import TrainResult, train


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
        norm_num_groups=recipe.norm_groups,
    )


def build_text_encoder(recipe: DiffusionRecipe, tokenizer: CLIPTokenizer) -> CLIPTextModel:
    """CLIP's text transformer at the recipe's size."""
    return CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(tokenizer),
            hidden_size=recipe.text_width,
            intermediate_size=4 * recipe.text_width,
            num_hidden_layers=recipe.text_layers,
            num_attention_heads=recipe.text_heads,
            max_position_embeddings=MAX_LENGTH,
            projection_dim=recipe.text_width,
            bos_token_id=tokenizer.bos_token_id,
            eos_token_id=tokenizer.eos_token_id,
            pad_token_id=tokenizer.pad_token_id,
        )
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


class LatentsAndWords(Dataset[dict[str, Tensor]]):
    """Scaled latents (S, 4, h, w) with the tokens of three captions each, (S, 77).

    A prompt, the prompt without colours (``bare``), and a narrative.
    """

    def __init__(self, latents: Tensor, prompts: Tensor, bare: Tensor, narratives: Tensor) -> None:
        self.latents, self.prompts, self.bare, self.narratives = latents, prompts, bare, narratives

    def __len__(self) -> int:
        return len(self.latents)

    def __getitem__(self, index: int) -> dict[str, Tensor]:
        return {
            "latents": self.latents[index],
            "prompt": self.prompts[index],
            "bare": self.bare[index],
            "narrative": self.narratives[index],
        }


class _Objective(nn.Module):
    """Mean squared error of the predicted velocity."""

    def __init__(
        self,
        unet: UNet2DConditionModel,
        text: CLIPTextModel,
        empty: Tensor,
        recipe: DiffusionRecipe,
    ) -> None:
        super().__init__()
        self.unet, self.text, self.recipe = unet, text, recipe
        self.timestep_power, self.bare = recipe.timestep_power, 0.0
        self.scheduler = build_scheduler()
        self.register_buffer("empty", empty, persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of a batch of :class:`LatentsAndWords`."""
        latents = batch["latents"]
        # Drawn on the CPU, so that a GPU sees the same numbers.
        count = len(latents)
        told = torch.rand(count, 1) < self.recipe.narratives
        silent = torch.rand(count, 1) < self.recipe.empty
        draw = torch.rand(count).pow(self.timestep_power)
        noise = torch.randn(latents.shape)
        bare = torch.rand(count, 1) < self.bare
        timesteps = (draw * self.scheduler.config["num_train_timesteps"]).long()
        device = latents.device
        told, silent, bare, noise, timesteps = (
            x.to(device) for x in (told, silent, bare, noise, timesteps)
        )
        ids = torch.where(bare, batch["bare"], batch["prompt"])
        ids = torch.where(told, batch["narrative"], ids)
        ids = torch.where(silent, cast(Tensor, self.empty), ids).long()
        noisy = cast(Any, self.scheduler).add_noise(latents, noise, timesteps)
        target = self.scheduler.get_velocity(latents, noise, cast(Any, timesteps))
        context = self.text(input_ids=ids).last_hidden_state
        velocity = self.unet(noisy, timesteps, context).sample
        return {"loss": (velocity.float() - target.float()).square().mean()}


def train_diffusion(
    data: LatentsAndWords,
    tokenizer: CLIPTokenizer,
    recipe: DiffusionRecipe,
    work: Path,
    on_log: Callable[[dict[str, float], int], None] | None = None,
) -> tuple[UNet2DConditionModel, CLIPTextModel, TrainResult]:
    """Trains UNet and text encoder on latents and captions; returns their averaged weights."""
    torch.manual_seed(recipe.train.seed)
    unet = build_unet(recipe, data.latents.shape[-1])
    text = build_text_encoder(recipe, tokenizer)
    objective = _Objective(unet, text, token_ids(tokenizer, [""]), recipe)
    key = recipe.model_dump_json(exclude={"refine"})
    result = _run(objective, data, recipe.train, work, key, on_log)
    if (refine := recipe.refine) is not None:
        objective.timestep_power, objective.bare = refine.timestep_power, refine.bare
        key = recipe.model_dump_json()
        result = _run(objective, data, refine.train, work / "refine", key, on_log)
    return unet, text, result


def _run(
    objective: _Objective,
    data: LatentsAndWords,
    config: TrainConfig,
    work: Path,
    key: str,
    on_log: Callable[[dict[str, float], int], None] | None,
) -> TrainResult:
    return train(
        model=objective,
        loss_fn=lambda model, batch: model(batch),
        dataset=data,
        config=config,
        folder=work,
        on_log=on_log,
        key=key,
        description="diffusion",
    )
