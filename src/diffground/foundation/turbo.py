"""The mini SDXL-Turbo: SDXL's topology, distilled from the mini Stable Diffusion to a few steps.

Three levels, no attention on the first, two text encoders side by side, pooled text and time ids.
As SDXL reads what *enters* the last layer of its text encoders, those of ours have one layer: so
every token stands for itself, as in the teacher, and the layer is for the pooled text alone.

It first learns to denoise scenes, as its teacher did. Then it learns where the teacher's
trajectories end (Luhman and Luhman, arXiv 2101.02388): from the noise that one begins with, and
from points on the way, to the latents that the teacher paints in many guided steps. That is a
function of the noise, so its mean is no blur. SDXL-Turbo itself has an adversarial loss on a frozen
network's features (Sauer et al., arXiv 2311.17042); here the teacher's features of both latents
are compared, which is what is stable within hours of a CPU.

``B`` batch · ``S`` trajectories · ``K`` steps of the student
"""

from __future__ import annotations

from collections.abc import Callable, Sequence
from functools import partial
from typing import Any, Final, cast

import torch
from diffusers import DDIMScheduler, EulerAncestralDiscreteScheduler, UNet2DConditionModel
from torch import Tensor, nn
from torch.utils.data import Dataset
from transformers import CLIPTextModel, CLIPTextModelWithProjection, CLIPTokenizer

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.probe import ProbeRequest
from diffground.backbone.sampler import sample
from diffground.foundation.autoencoder import LATENT_CHANNELS, NORM_GROUPS, unlike
from diffground.foundation.config import DiffusionRecipe, TurboRecipe
from diffground.foundation.diffusion import build_scheduler, text_config, token_ids, velocity_loss
from diffground.foundation.fitting import Workshop
from diffground.progress import progress
from diffground.seeds import derive_seed
from diffground.store.manifest import config_hash
from diffground.training.batches import drawn

TIME_IDS: Final = 6  # original size, crop corner, target size
FEATURES: Final = ("down_blocks.0", "down_blocks.1", "down_blocks.2", "mid_block")
FEATURE_TIMES: Final = 500  # the teacher's features are those of latents with less noise than this
BATCH: Final = 16  # trajectories per pass of the teacher
PART: Final = 480  # trajectories that are kept together

Features = Callable[[Tensor, Tensor, Tensor, int], Sequence[Tensor]]


def build_turbo_unet(recipe: TurboRecipe, sample_size: int) -> UNet2DConditionModel:
    """SDXL's UNet: three levels, attention on the lower two, text and sizes beside the time."""
    return UNet2DConditionModel(
        sample_size=sample_size,
        in_channels=LATENT_CHANNELS,
        out_channels=LATENT_CHANNELS,
        down_block_types=("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        up_block_types=("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        block_out_channels=recipe.channels,
        layers_per_block=2,
        transformer_layers_per_block=recipe.blocks,
        cross_attention_dim=2 * recipe.text_width,
        attention_head_dim=recipe.heads,  # the number of heads, as in the teacher
        norm_num_groups=NORM_GROUPS,
        use_linear_projection=True,
        addition_embed_type="text_time",
        addition_time_embed_dim=recipe.time_width,
        projection_class_embeddings_input_dim=recipe.text_width + TIME_IDS * recipe.time_width,
    )


def build_turbo_scheduler() -> EulerAncestralDiscreteScheduler:
    """SDXL-Turbo's, with the teacher's v-prediction.

    From pure noise an epsilon says little of the latents: they are its small remainder, fifteen
    times enlarged.
    """
    return EulerAncestralDiscreteScheduler(
        beta_start=0.00085,
        beta_end=0.012,
        beta_schedule="scaled_linear",
        prediction_type="v_prediction",
        timestep_spacing="trailing",
        steps_offset=1,
    )


def student_timesteps(recipe: TurboRecipe) -> list[int]:
    """The K time steps at which it is asked when it takes all its steps: 999, 749, 499, 249."""
    scheduler = build_turbo_scheduler()
    scheduler.set_timesteps(recipe.steps)
    return [int(step) for step in cast(Tensor, scheduler.timesteps)]


class Student(nn.Module):
    """The UNet and both text encoders, from tokens to a velocity."""

    def __init__(self, recipe: TurboRecipe, tokenizer: CLIPTokenizer, size: int) -> None:
        """For images of ``size`` pixels."""
        super().__init__()
        unet = build_turbo_unet(recipe, size // 8)
        self.unet = unet.to(memory_format=torch.channels_last)
        width = recipe.text_width
        config = text_config(tokenizer, width, layers=1, heads=recipe.heads, projection=width)
        self.text = CLIPTextModel(config)
        self.text_2 = CLIPTextModelWithProjection(config)
        # Nothing but its embeddings is ever read of the first.
        self.text.requires_grad_(False)
        for embeddings in (self.text.embeddings, self.text_2.text_model.embeddings):
            embeddings.requires_grad_(True)
            # CLIP's are fifty times smaller; no norm stands between these and the UNet.
            for table in (embeddings.token_embedding, embeddings.position_embedding):
                nn.init.normal_(table.weight, std=0.5**0.5)
        ids = torch.tensor([[size, size, 0, 0, size, size]], dtype=torch.float32)
        self.register_buffer("time_ids", ids, persistent=False)

    def forward(self, noisy: Tensor, timesteps: Tensor, ids: Tensor) -> Tensor:
        """The velocity (B, 4, h, w) of noisy latents at timesteps (B,), for tokens (B, 77)."""
        first, second = (
            encoder(input_ids=ids, output_hidden_states=True)
            for encoder in (self.text, self.text_2)
        )
        context = torch.cat([first.hidden_states[-2], second.hidden_states[-2]], dim=-1)
        time_ids = cast(Tensor, self.time_ids).expand(len(noisy), -1)
        added = {"text_embeds": second.text_embeds, "time_ids": time_ids}
        output = self.unet(noisy, timesteps, context, added_cond_kwargs=added)
        return cast(Tensor, output.sample)


class _Pretraining(nn.Module):
    """The student, whose loss is that of the teacher's own training."""

    def __init__(
        self, student: Student, empty: Tensor, recipe: DiffusionRecipe, turbo: TurboRecipe
    ):
        super().__init__()
        self.student, self.recipe, self.phase = student, recipe, turbo.pretrain
        self.register_buffer("empty", empty, persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The loss of a batch, see :func:`velocity_loss`."""
        empty = cast(Tensor, self.empty)
        return velocity_loss(self.student, batch, empty, self.recipe, self.phase)


class Distillation(nn.Module):
    """The student, whose loss tells how far it is from where the teacher's trajectories end."""

    def __init__(self, student: Student, features: Features, recipe: TurboRecipe) -> None:
        """``features(latents, noise, ids, timestep)`` are those of latents with that much noise."""
        super().__init__()
        self.student, self.features, self.recipe = student, features, recipe
        steps = torch.tensor(student_timesteps(recipe))
        self.register_buffer("timesteps", steps, persistent=False)
        alphas = build_scheduler().alphas_cumprod[steps]
        self.register_buffer("alphas", alphas.view(-1, 1, 1, 1), persistent=False)

    def forward(self, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        """The losses of tokens ``ids`` (B, 77) and ``path`` (B, K + 1, 4, h, w).

        ``path`` is the teacher's, see :func:`trajectories`.
        """
        ids, path = batch["ids"].long(), batch["path"].float()
        count, device = len(path), path.device
        # Drawn on the CPU, so that a GPU sees the same numbers.
        later = drawn(lambda n: torch.randint(1, self.recipe.steps, (n,)), count)
        which = torch.where(drawn(torch.rand, count) < self.recipe.distil.first, 0, later).to(
            device
        )
        noise = drawn(lambda n: torch.randn(n, *path.shape[2:]), count).to(device)
        noisiness = int(torch.randint(0, FEATURE_TIMES, ()))
        noisy, wanted = path[torch.arange(count, device=device), which], path[:, -1]
        alphas = cast(Tensor, self.alphas)[which]
        velocity = self.student(noisy, cast(Tensor, self.timesteps)[which], ids)
        found = alphas.sqrt() * noisy - (1 - alphas).sqrt() * velocity
        squared = (found - wanted).square().mean()
        with torch.no_grad():
            aim = self.features(wanted, noise, ids, noisiness)
        features = unlike(self.features(found, noise, ids, noisiness), aim)
        loss = squared + self.recipe.distil.feature_weight * features
        return {"loss": loss, "squared": squared, "features": features}


def teacher_features(teacher: FrozenDiffusion) -> Features:
    """What the teacher's UNet has on its way down for latents (B, 4, h, w) with some noise."""
    alphas = build_scheduler().alphas_cumprod

    def features(latents: Tensor, noise: Tensor, ids: Tensor, timestep: int) -> list[Tensor]:
        alpha = float(alphas[timestep])
        noisy = alpha**0.5 * latents + (1 - alpha) ** 0.5 * noise
        context = teacher.text_encoders[0](input_ids=ids).last_hidden_state
        found = teacher.probe(noisy, timestep, context, ProbeRequest(features=FEATURES))
        return list(found.features.values())

    return features


@torch.no_grad()
def trajectories(
    teacher: FrozenDiffusion, prompts: Sequence[str], first: int, recipe: TurboRecipe
) -> Tensor:
    """The teacher's way from noise to latents, float16 (S, K + 1, 4, h, w) on the CPU.

    The latents that it read at each of :func:`student_timesteps`, and those that it ended with. By
    DDIM, in evenly spaced steps from pure noise on. The noise of trajectory ``first + i`` of prompt
    i depends on that number and the recipe's seed alone.
    """
    source, wanted = recipe.trajectories, student_timesteps(recipe)
    scheduler = DDIMScheduler.from_config(teacher.scheduler.config, timestep_spacing="trailing")
    parts: list[Tensor] = []
    for start in range(0, len(prompts), BATCH):
        texts = prompts[start : start + BATCH]
        numbers = range(first + start, first + start + len(texts))
        path: list[Tensor] = []
        for step in sample(
            teacher,
            teacher.encode_prompts(texts),
            [derive_seed(source.seed, number, "trajectory") for number in numbers],
            steps=source.steps,
            guidance=source.guidance,
            scheduler=scheduler,
        ):
            if step.timestep in wanted:
                path.append(step.entering)
            latents = step.latents
        parts.append(torch.stack([*path, latents], dim=1).half().cpu())
    return torch.cat(parts)


def kept_trajectories(
    shop: Workshop, teacher: FrozenDiffusion, prompts: Sequence[str], weights: str
) -> Tensor:
    """:func:`trajectories` of all prompts, each part made once and kept for a teacher's weights."""
    recipe, parts = shop.recipe.turbo, []
    how = recipe.model_dump(include={"steps", "trajectories"})
    del how["trajectories"]["count"]
    for start in progress(range(0, len(prompts), PART), "trajectories"):
        texts = prompts[start : start + PART]
        key = config_hash({"weights": weights, "how": how, "start": start, "prompts": texts})
        make = partial(trajectories, teacher, texts, start, recipe)
        parts.append(shop.kept(f"trajectories-{key}", make))
    return torch.cat(parts)


def train_turbo(
    shop: Workshop,
    scenes: Dataset[dict[str, Tensor]],
    paths: Dataset[dict[str, Tensor]],
    teacher: FrozenDiffusion,
    key: str,
) -> Student:
    """Trains the student on scenes, then on trajectories; returns its averaged weights.

    Args:
        scenes: as :func:`diffground.foundation.diffusion.train_diffusion` describes its data.
        paths: tokens ``ids`` (S, 77) and ``path`` (S, K + 1, 4, h, w), see :func:`trajectories`.
        key: what the teacher is; checkpoints made with another one are refused.
    """
    recipe, (tokenizer,) = shop.recipe.turbo, teacher.tokenizers
    torch.manual_seed(recipe.pretrain.train.seed)
    student = Student(recipe, tokenizer, shop.canvas.size)

    def loss(model: nn.Module, batch: dict[str, Tensor]) -> dict[str, Tensor]:
        return cast(dict[str, Tensor], model(batch))

    diffusion = shop.recipe.diffusion
    pretraining = _Pretraining(student, token_ids(tokenizer, [""]), diffusion, recipe)
    later: set[str] = {"distil", "trajectories", "steps"}
    shares = diffusion.model_dump_json(include={"narratives", "empty", "mixed"})
    known = key + shares + recipe.model_dump_json(exclude=cast(Any, later))
    shop.fit("turbo", pretraining, loss, scenes, recipe.pretrain.train, known, below="pretrain")
    distillation = Distillation(student, teacher_features(teacher), recipe)
    known = key + shares + recipe.model_dump_json()
    shop.fit("turbo", distillation, loss, paths, recipe.distil.train, known, below="distil")
    return student
