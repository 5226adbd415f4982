"""What the PNG model is made of, and who of its heads predicts."""

from __future__ import annotations

from typing import Literal

from pydantic import Field, model_validator

from diffground.config import Config
from diffground.png.decoder import DecoderConfig
from diffground.png.eipa import EipaConfig, Insertion
from diffground.png.features import Precision
from diffground.png.mlma import MlmaConfig
from diffground.png.phrases import LongCaptions

Head = Literal["diffusion", "inner", "adapter", "decoder"]


class PngModelConfig(Config):
    """What the model is. ``auto`` means: the last head that the model has."""

    insertion: Insertion = "both"  # where EIPA sits (Table 3); none = static prompting
    inner_product: Literal["none", "frozen", "learned"] = "none"  # Table 2's rows without a decoder
    decode: bool = True  # MLMA, mask feature and decoder (section 3.3)
    head: Literal["auto", "diffusion", "inner", "adapter", "decoder"] = "auto"  # who predicts
    fusion: Literal["auto", "mean", "learned"] = "auto"  # Diffusion head; auto: mean if zero-shot
    time_step: int = Field(default=1, ge=0, lt=1000)  # the paper: 1 in section 3.1, 0 in 4.2
    noise: Literal["none", "seeded"] = "none"  # seeded: noise of the time step, by sample id
    noise_seed: int = 0
    probability: Literal["minmax", "raw"] = "minmax"  # Diffusion head: how a map becomes a mask
    threshold: float = Field(default=0.5, gt=0, lt=1)  # a pixel above it is in the mask
    long_captions: LongCaptions = "per_sentence"  # captions beyond the encoder's 77 positions
    frozen_precision: Precision = "float16"  # what latents and embeddings are rounded to
    checkpoint: bool = False  # activation checkpointing of the frozen networks in training
    # What the VAE decoder sees: the clean latent as the UNet's output estimates it, that output
    # itself (a literal reading of section 3.3), or the image's own latent.
    mask_latent: Literal["denoised", "output", "clean"] = "denoised"
    inner_width: int = Field(default=256, gt=0)  # channels of the learned inner product
    pretrained: bool = False  # MLMA's visual attention and the decoder start from Mask2Former's
    eipa: EipaConfig = EipaConfig()
    mlma: MlmaConfig = MlmaConfig()
    decoder: DecoderConfig = DecoderConfig()

    @model_validator(mode="after")
    def _choices_fit(self) -> PngModelConfig:
        if self.head not in ("auto", *self.heads):
            raise ValueError(f"head {self.head}, but the model has only {', '.join(self.heads)}")
        if self.pretrained and not self.decode:
            raise ValueError("pretrained weights are for MLMA and the decoder, decode is false")
        return self

    @property
    def heads(self) -> tuple[Head, ...]:
        """The heads that the model has; each is supervised, the last one predicts by default."""
        there: dict[Head, bool] = {
            "diffusion": True,
            "adapter": self.insertion != "none",
            "inner": self.inner_product != "none",
            "decoder": self.decode,
        }
        return tuple(name for name, present in there.items() if present)

    @property
    def final_head(self) -> Head:
        """The head that predicts."""
        return self.heads[-1] if self.head == "auto" else self.head

    @property
    def learns_fusion(self) -> bool:
        """Whether the Diffusion head's weights are learned."""
        return self.fusion == "learned" or (self.fusion == "auto" and len(self.heads) > 1)

    @property
    def learns(self) -> bool:
        """False for zero-shot static prompting, which has nothing to train."""
        return len(self.heads) > 1 or self.learns_fusion
