"""The released text-to-image models as data: what their configuration files say.

Values are those of the folders that the papers name: Stable Diffusion 1.4 and 1.5, 2.1 (the 768
pixel model, v-prediction) and SDXL-Turbo. Every part's number of parameters stands beside it, and
a test counts them. ``tiny`` has the topology of Stable Diffusion 1.x at the sizes of the tests.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

import diffusers
from diffusers import (
    AutoencoderKL,
    DiffusionPipeline,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from torch import nn
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from diffground.backbone.folder import check_vocabulary

Values = Mapping[str, Any]


@dataclass(frozen=True)
class TextPart:
    """A text encoder, and the token that its tokenizer pads prompts with (None: the end token)."""

    config: Values
    pad: str | None = None


@dataclass(frozen=True)
class Architecture:
    """One model: the configurations of its parts, by diffusers' and transformers' names.

    ``parameters`` counts those of the released model by part; empty for one that nobody released.
    """

    unet: Values
    vae: Values
    texts: tuple[TextPart, ...]  # one, or SDXL's two
    scheduler: str  # the name of diffusers' class
    schedule: Values
    parameters: Mapping[str, int] = field(default_factory=dict)

    @property
    def pairs(self) -> tuple[tuple[str, str], ...]:
        """The names of tokenizer and text encoder, for each of ``texts``."""
        suffixes = ("", "_2")[: len(self.texts)]
        return tuple((f"tokenizer{suffix}", f"text_encoder{suffix}") for suffix in suffixes)

    @property
    def parts(self) -> tuple[str, ...]:
        """The parts with weights."""
        return ("unet", "vae", *(encoder for _, encoder in self.pairs))

    def pipeline(self, parts: Mapping[str, Any]) -> DiffusionPipeline:
        """diffusers' pipeline of a scheduler, tokenizers, and all of :attr:`parts`."""
        if len(self.texts) > 1:
            return StableDiffusionXLPipeline(**parts)
        absent = dict.fromkeys(("safety_checker", "feature_extractor"))
        return StableDiffusionPipeline(**parts, **absent, requires_safety_checker=False)

    def build(self, part: str, tokenizer: CLIPTokenizer | None = None) -> nn.Module:
        """A part with fresh weights, on the default device and in the default dtype.

        A text encoder takes the special tokens' ids from ``tokenizer``; without one they are those
        of CLIP's own vocabulary. Raises :class:`InputError` for ids that it has no embedding for.
        """
        if part == "unet":
            unet: nn.Module = UNet2DConditionModel(**self.unet)
            return unet
        if part == "vae":
            vae: nn.Module = AutoencoderKL(**self.vae)
            return vae
        values = dict(self.texts[self.parts.index(part) - 2].config)
        if tokenizer is not None:
            check_vocabulary(tokenizer, values["vocab_size"])
            for token in ("bos", "eos", "pad"):
                values[f"{token}_token_id"] = getattr(tokenizer, f"{token}_token_id")
        kind = CLIPTextModelWithProjection if part.endswith("_2") else CLIPTextModel
        encoder: nn.Module = kind(CLIPTextConfig(**values))
        return encoder

    def build_scheduler(self) -> Any:
        """The noise schedule."""
        return getattr(diffusers, self.scheduler).from_config(dict(self.schedule))


# What all of them share.
_NOISE = {
    "num_train_timesteps": 1000,
    "beta_start": 0.00085,
    "beta_end": 0.012,
    "beta_schedule": "scaled_linear",
    "steps_offset": 1,
}
_VAE = {
    "down_block_types": ("DownEncoderBlock2D",) * 4,
    "up_block_types": ("UpDecoderBlock2D",) * 4,
    "block_out_channels": (128, 256, 512, 512),
    "layers_per_block": 2,
    "latent_channels": 4,
    "norm_num_groups": 32,
    "sample_size": 512,
    "scaling_factor": 0.18215,
}
_FOUR_LEVELS = {
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
    "layers_per_block": 2,
}

# OpenAI's CLIP ViT-L/14; Stable Diffusion 2.x and SDXL have OpenCLIP's H and bigG.
_VIT_L = {
    "vocab_size": 49408,
    "hidden_size": 768,
    "intermediate_size": 3072,
    "num_hidden_layers": 12,
    "num_attention_heads": 12,
    "max_position_embeddings": 77,
    "hidden_act": "quick_gelu",
    "projection_dim": 768,
}
_VIT_H = _VIT_L | {
    "hidden_size": 1024,
    "intermediate_size": 4096,
    "num_hidden_layers": 23,  # of 24: the last one was taken off
    "num_attention_heads": 16,
    "hidden_act": "gelu",
    "projection_dim": 512,
}
_VIT_BIG_G = _VIT_L | {
    "hidden_size": 1280,
    "intermediate_size": 5120,
    "num_hidden_layers": 32,
    "num_attention_heads": 20,
    "hidden_act": "gelu",
    "projection_dim": 1280,
}

# In the released UNets `attention_head_dim` is the number of heads, despite its name.
_SD1 = Architecture(
    unet={
        **_FOUR_LEVELS,
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 768,
        "attention_head_dim": 8,
    },
    vae=_VAE,
    texts=(TextPart(_VIT_L),),
    scheduler="PNDMScheduler",
    schedule={**_NOISE, "skip_prk_steps": True, "set_alpha_to_one": False},
    parameters={"unet": 859_520_964, "vae": 83_653_863, "text_encoder": 123_060_480},
)
_SD21 = Architecture(
    unet={
        **_FOUR_LEVELS,
        "sample_size": 96,
        "block_out_channels": (320, 640, 1280, 1280),
        "cross_attention_dim": 1024,
        "attention_head_dim": (5, 10, 20, 20),
        "use_linear_projection": True,
        "upcast_attention": True,
    },
    vae={**_VAE, "sample_size": 768},
    texts=(TextPart(_VIT_H, pad="!"),),
    scheduler="DDIMScheduler",
    schedule={
        **_NOISE,
        "prediction_type": "v_prediction",
        "clip_sample": False,
        "set_alpha_to_one": False,
    },
    parameters={"unet": 865_910_724, "vae": 83_653_863, "text_encoder": 340_387_840},
)
_SDXL_TURBO = Architecture(
    unet={
        "down_block_types": ("DownBlock2D", "CrossAttnDownBlock2D", "CrossAttnDownBlock2D"),
        "up_block_types": ("CrossAttnUpBlock2D", "CrossAttnUpBlock2D", "UpBlock2D"),
        "layers_per_block": 2,
        "sample_size": 64,
        "block_out_channels": (320, 640, 1280),
        "cross_attention_dim": 2048,
        "attention_head_dim": (5, 10, 20),
        "transformer_layers_per_block": (1, 2, 10),
        "use_linear_projection": True,
        "addition_embed_type": "text_time",
        "addition_time_embed_dim": 256,
        "projection_class_embeddings_input_dim": 2816,  # 1280 of the text, 6 times 256
    },
    vae={**_VAE, "sample_size": 1024, "scaling_factor": 0.13025},
    texts=(TextPart(_VIT_L), TextPart(_VIT_BIG_G, pad="!")),
    scheduler="EulerAncestralDiscreteScheduler",
    schedule={**_NOISE, "timestep_spacing": "trailing"},
    parameters={
        "unet": 2_567_463_684,
        "vae": 83_653_863,
        "text_encoder": 123_060_480,
        "text_encoder_2": 694_659_840,
    },
)
_TINY = Architecture(
    unet={
        **_FOUR_LEVELS,
        "sample_size": 8,
        "block_out_channels": (8, 16, 16, 16),
        "cross_attention_dim": 16,
        "attention_head_dim": 2,
        "norm_num_groups": 4,
    },
    vae={**_VAE, "block_out_channels": (4,) * 4, "layers_per_block": 1, "norm_num_groups": 2},
    texts=(
        TextPart(
            _VIT_L
            | {
                "vocab_size": 1024,
                "hidden_size": 16,
                "intermediate_size": 16,
                "num_hidden_layers": 1,
                "num_attention_heads": 2,
                "projection_dim": 16,
            }
        ),
    ),
    scheduler="DDIMScheduler",
    schedule={**_NOISE, "clip_sample": False, "set_alpha_to_one": False},
)

ARCHITECTURES: dict[str, Architecture] = {
    "sd14": _SD1,  # 1.4 and 1.5 differ in their weights only
    "sd15": _SD1,
    "sd21": _SD21,
    "sdxl-turbo": _SDXL_TURBO,
    "tiny": _TINY,
}
