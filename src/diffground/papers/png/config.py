"""What one PNG experiment is: its settings, from the data to the evaluation, and its folders.

The paper's values, each with its section, are those of ``conf/base``, and stand there alone.
"""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Annotated, Literal

from pydantic import Field, NonNegativeInt, PositiveInt, model_validator

from diffground.config import NOT_IN_KEY, AutoDevice, Config, PluralRule, Protocol
from diffground.data.config import PngSplits
from diffground.phrases.long_captions import LongCaptions
from diffground.store.config import WorkConfig
from diffground.training.config import TrainConfig

if TYPE_CHECKING:
    from diffground.backbone.frozen import FrozenDiffusion

Insertion = Literal["none", "encoder", "decoder", "both"]
Head = Literal["diffusion", "inner", "adapter", "decoder"]
Precision = Literal["float16", "float32"]

LATENT_STRIDE = 64  # the VAE's 8 times a UNet's three halvings
MASK_STRIDE = 4  # masks are predicted and supervised at 1/4 of the image (section 3.3)


class PngDataConfig(Config):
    """How a narrative becomes tensors."""

    # Pixels of the square that images are resized to.
    image_size: int = Field(gt=0, multiple_of=LATENT_STRIDE)
    max_phrases: PositiveInt  # grounded phrases of a training narrative; the rest is left out

    @property
    def mask_size(self) -> tuple[int, int]:
        """``(h, w)`` of predicted and supervised masks."""
        side = self.image_size // MASK_STRIDE
        return side, side


class EipaConfig(Config):
    """The adapter's sizes and choices."""

    zoom: PositiveInt  # D, channels inside the adapter
    heads: PositiveInt
    ffn: PositiveInt  # hidden channels of the FFN
    norm: Literal["pre", "post"]
    features: Literal["normalised", "raw"]  # F_itm as keys and values see it
    attention_mask: Literal["accumulated", "previous", "none"]
    zoom_out_init: Literal["zero", "default"]
    zoom_out_gain: float = Field(gt=0)  # times what a site adds to the phrases

    @model_validator(mode="after")
    def _heads_divide_zoom(self) -> EipaConfig:
        if self.zoom % self.heads:
            raise ValueError(f"zoom {self.zoom} is no multiple of heads {self.heads}")
        return self


class MlmaConfig(Config):
    """MLMA's sizes and parts."""

    width: PositiveInt  # C_m, a multiple of 4 and of heads
    layers: PositiveInt
    heads: PositiveInt  # even: bi-attention and self-attention have half of the deformable's
    points: PositiveInt  # samples of the deformable attention per head and level
    ffn: PositiveInt  # hidden channels; half of it on the phrase side and in bi-attention
    bi_attention: bool
    deformable: bool
    self_attention: bool

    @model_validator(mode="after")
    def _sizes_divide(self) -> MlmaConfig:
        if self.heads % 2:
            raise ValueError(f"heads {self.heads} is odd, but the phrase side has half of them")
        if self.width % self.heads or self.width % 4:
            raise ValueError(f"width {self.width} is no multiple of 4 and of heads {self.heads}")
        if self.ffn % self.heads:
            raise ValueError(f"ffn {self.ffn} is no multiple of heads {self.heads}")
        return self


class DecoderConfig(Config):
    """The decoder's sizes."""

    layers: PositiveInt
    heads: PositiveInt
    ffn: PositiveInt  # hidden channels
    levels: Literal["in_turn", "together"]  # what a layer attends to: one level, or all


class PngModelConfig(Config):
    """What the model is. ``auto`` means: the last head that the model has."""

    insertion: Insertion  # where EIPA sits (Table 3); none = static prompting
    inner_product: Literal["none", "frozen", "learned"]  # Table 2's rows without a decoder
    decode: bool  # MLMA, mask feature and decoder (section 3.3)
    head: Literal["auto", "diffusion", "inner", "adapter", "decoder"]  # who predicts
    fusion: Literal["auto", "mean", "learned"]  # Diffusion head; auto: mean if zero-shot
    # What the UNet's cross-attention sees: the phrases, or as many zeros in their place. A control
    # of ours: the decoder still reads the phrases, so it shows what is learned without the prompt.
    unet_context: Literal["phrases", "zeros"]
    time_step: int = Field(ge=0, lt=1000)  # the paper: 1 in section 3.1, 0 in 4.2
    noise: Literal["none", "seeded"]  # seeded: noise of the time step, by sample id
    probability: Literal["minmax", "raw"]  # Diffusion head: how a map becomes a mask
    threshold: float = Field(gt=0, lt=1)  # a pixel above it is in the mask
    long_captions: LongCaptions  # captions beyond the encoder's 77 positions
    frozen_precision: Precision  # what latents and embeddings are rounded to
    # Activation checkpointing of the frozen networks in training.
    checkpoint: Annotated[bool, NOT_IN_KEY]
    # What the VAE decoder sees: the clean latent as the UNet's output estimates it, that output
    # itself (a literal reading of section 3.3), or the image's own latent.
    mask_latent: Literal["denoised", "output", "clean"]
    inner_width: int = Field(gt=0)  # channels of the learned inner product
    pretrained: bool  # MLMA's visual attention and the decoder start from Mask2Former's
    eipa: EipaConfig
    mlma: MlmaConfig
    decoder: DecoderConfig

    @model_validator(mode="after")
    def _choices_fit(self) -> PngModelConfig:
        if self.head not in ("auto", *self.heads):
            raise ValueError(f"head {self.head}, but the model has only {', '.join(self.heads)}")
        if self.pretrained and not self.decode:
            raise ValueError("pretrained weights are for MLMA and the decoder, decode is false")
        if self.unet_context == "zeros" and self.insertion != "none":
            reason = "zeros leaves no prompt, insertion puts an adapter's phrases into it"
            raise self.refusal("unet_context", reason)
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


class LossConfig(Config):
    """Variants of the losses; their sum is plain (equations 12 to 14)."""

    diffusion_ce: Literal["paper", "binary"]
    reduction: Literal["sum", "mean"]  # over the adapter's sites, the decoder's layers
    points: int = Field(ge=0)  # points per mask for BCE and Dice; 0 = every cell


class PngTrainConfig(TrainConfig):
    """The training loop's settings, and whether to begin anew."""

    # throws the variant's checkpoint and finished model away
    restart: Annotated[bool, NOT_IN_KEY] = False
    adapter_rate: float = Field(default=1.0, gt=0)  # of EIPA and its head, times learning_rate

    def loop(self, *, adapter: bool) -> TrainConfig:
        """The settings that decide the result, of a model with or without an adapter."""
        content = self.model_dump(exclude={"restart", "adapter_rate"})
        if adapter and self.adapter_rate != 1.0:
            parts = ("eipa.", "adapter_head.", "diffusion_head.")
            content["rate_factors"] |= dict.fromkeys(parts, self.adapter_rate)
        return TrainConfig(**content)


class PngEvalConfig(Config):
    """How a model is measured. The first two stand beside every number."""

    protocol: Protocol
    plural_rule: PluralRule
    # Of a training with evaluate_every: its last weights, or the best among those it evaluated,
    # which were chosen by this very split (PNG has no other) and so flatter.
    weights: Literal["last", "best"]
    batch_size: Annotated[int, Field(gt=0, le=4096), NOT_IN_KEY]
    limit: PositiveInt | None  # narratives, in file order; None = all
    overlays: Annotated[int, Field(ge=0), NOT_IN_KEY]  # predictions kept to be drawn


class PngConfig(Config):
    """A whole experiment: ``params:png``."""

    scale: Literal["mini", "paper"]  # said beside every number
    device: AutoDevice  # auto = the GPU if there is one
    precision: Literal["float32", "bfloat16", "float16"]  # of the frozen model
    compile: Annotated[bool, NOT_IN_KEY]  # its residual blocks: minutes at first, then faster
    # Latents and embeddings: from the store of feature_extraction, or computed in every step; auto
    # takes the store if it is there and whole. The numbers are the same.
    features: Literal["auto", "cached", "computed"]
    splits: PngSplits
    data: PngDataConfig
    model: PngModelConfig
    loss: LossConfig
    train: PngTrainConfig
    eval: PngEvalConfig

    @model_validator(mode="after")
    def _the_best_are_looked_for(self) -> PngConfig:
        if self.eval.weights == "best" and not self.train.evaluate_every:
            raise self.refusal("eval.weights", "needs train.evaluate_every, which is 0")
        return self

    def load_backbone(self, folder: Path) -> FrozenDiffusion:
        """The frozen model on the device and in the precision asked for."""
        import torch

        from diffground.backbone.frozen import FrozenDiffusion
        from diffground.training.processes import chosen_device

        dtype: torch.dtype = getattr(torch, self.precision)
        return FrozenDiffusion.from_pretrained(
            folder, device=chosen_device(self.device), dtype=dtype, compiled=self.compile
        )


@dataclass(frozen=True)
class PngFolders:
    """Where an experiment reads and writes; what a step does not ask for may be left out."""

    coco: Path  # the benchmark
    models: Path  # trained variants
    features: Path = Path()  # what feature_extraction made; may be missing
    doctor: Path = Path()  # what the data doctor found; may be missing
    panoptic: Path = Path()  # Mask2Former weights to start from; only for png.model.pretrained


class FeatureExtractionConfig(Config):
    """How features are extracted: ``params:feature_extraction``. What they are: ``params:png``."""

    batch_size: PositiveInt  # images, and captions, encoded at once
    block_size: PositiveInt  # narratives a file; what a killed run loses at most
    num_workers: Annotated[NonNegativeInt, NOT_IN_KEY]  # processes that read images
    work: WorkConfig = WorkConfig()  # shards of files, and who makes them
