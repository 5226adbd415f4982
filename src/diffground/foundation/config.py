"""The recipe of the mini models: what they are, and how they are trained."""

from __future__ import annotations

from typing import Self

from pydantic import Field, NonNegativeInt, PositiveInt, field_validator, model_validator

from diffground.config import Config
from diffground.training.config import TrainConfig


class SceneSource(Config):
    """Which scenes the mini models learn from."""

    seed: int  # of the training scenes; another one than that of the datasets and the evaluation
    count: PositiveInt
    simple: float = Field(ge=0, le=1)  # share of scenes of one or two single things
    mugs: float = Field(ge=0, le=1)  # and of mugs alone, full or empty, on and next to things


class AutoencoderRecipe(Config):
    """The VAE: 8x, four latent channels."""

    channels: tuple[int, int, int, int]
    crop: PositiveInt  # pixels; crops are cheaper than whole images
    whole_share: float = Field(ge=0, le=1)  # share of the steps on whole images
    kl_weight: float = Field(ge=0)  # of the divergence of a latent position
    feature_weight: float = Field(ge=0)  # of the segmenter's features, on whole images
    scenes: PositiveInt
    train: TrainConfig
    refine: TrainConfig  # of the decoder alone, on whole images: latents stay as they are


class DiffusionPhase(Config):
    """A stretch of the diffusion model's training, from the averaged weights of the one before.

    Early ones lean towards noise, where words decide what is where; later ones are for shapes.
    """

    timestep_power: float = Field(gt=0)  # t = 1000 * u**power; 1 = uniform
    bare: float = Field(ge=0, le=1)  # share of prompts without colours and patterns
    train: TrainConfig


class DiffusionRecipe(Config):
    """The UNet of SD-1.x topology and the text encoder, trained together."""

    channels: tuple[int, int, int, int]
    heads: PositiveInt = 2
    text_width: PositiveInt = 64
    # Without a layer every token stands for itself. A causal layer lets the padding to 77 tokens
    # collect the whole caption: most attention then goes there, and words do not localise.
    text_layers: int = Field(ge=0)
    text_heads: PositiveInt = 4
    vocabulary: PositiveInt = 1200  # byte-pair tokens
    narratives: float = Field(ge=0, le=1)  # share of narratives among the captions
    mixed: float = Field(ge=0, le=1)  # share of scenes' stuff drawn anew
    empty: float = Field(default=0.1, ge=0, le=1)  # share of empty captions, for guidance
    phases: tuple[DiffusionPhase, ...] = Field(min_length=1)


class FineTuning(Config):
    """How the mini Stable Diffusion is trained on: ``params:foundation_fine_tuning``."""

    seed: int  # of its scenes
    count: PositiveInt  # of them
    phase: DiffusionPhase


class TrajectoryRecipe(Config):
    """How the teacher paints what the turbo model learns from."""

    count: PositiveInt
    steps: PositiveInt  # of the teacher, a multiple of the student's
    guidance: float = Field(gt=0)
    bare: float = Field(ge=0, le=1)  # share of prompts without colours and patterns
    seed: int


class DistilRecipe(Config):
    """How the student learns where trajectories end."""

    first: float = Field(ge=0, le=1)  # share of samples from pure noise, which is the first step
    feature_weight: float = Field(ge=0)  # of the teacher's features
    train: TrainConfig


class TurboRecipe(Config):
    """The UNet of SDXL's topology and its two text encoders, distilled to a few steps."""

    channels: tuple[int, int, int]
    # Transformer blocks of each attention by level; SDXL's (1, 2, 10). The first level has none.
    blocks: tuple[PositiveInt, PositiveInt, PositiveInt] = (1, 1, 2)
    heads: PositiveInt = 4
    text_width: PositiveInt = 64  # of each text encoder, and of the pooled text
    time_width: PositiveInt = 32  # of each of the six time ids
    steps: int = Field(ge=2)  # the most that it is made for; the fewest are 1
    pretrain: DiffusionPhase
    trajectories: TrajectoryRecipe
    distil: DistilRecipe

    @model_validator(mode="after")
    def _the_teacher_passes_by(self) -> Self:
        if self.trajectories.steps % self.steps:
            raise ValueError(
                f"the teacher's {self.trajectories.steps} steps do not pass by all of the "
                f"student's {self.steps}: take a multiple"
            )
        return self


class ClipRecipe(Config):
    """The contrastive text and image encoders."""

    width: PositiveInt = 96
    layers: PositiveInt = 3
    heads: PositiveInt = 4
    patch: PositiveInt = 16  # pixels
    projection: PositiveInt = 64
    scenes: PositiveInt
    train: TrainConfig


class VitRecipe(Config):
    """The self-supervised image encoder."""

    width: PositiveInt = 96
    layers: PositiveInt = 4
    heads: PositiveInt = 4
    patch: PositiveInt = 8  # pixels
    bottleneck: PositiveInt = 64  # channels of the head
    prototypes: PositiveInt = 128
    large: PositiveInt = 64  # pixels of the crops that the teacher sees, multiples of the patch
    small: PositiveInt = 32
    views: PositiveInt = 4  # small crops of each image
    momentum: float = Field(default=0.99, ge=0, lt=1)  # of the teacher, per step
    scenes: PositiveInt
    train: TrainConfig


class SegmenterRecipe(Config):
    """The Mask2Former that plays the off-the-shelf instance segmenter."""

    stem: PositiveInt = 24
    channels: tuple[int, int, int, int] = (32, 48, 64, 96)
    width: PositiveInt = 64
    heads: PositiveInt = 4
    encoder_layers: PositiveInt = 2
    decoder_layers: PositiveInt = 3
    queries: PositiveInt = 16
    points: PositiveInt = 1024  # sampled per mask for the loss
    scenes: PositiveInt
    train: TrainConfig
    refine: TrainConfig  # a second training, half of it on what the autoencoder makes of images


class FoundationRecipe(Config):
    """All the mini models."""

    name: str  # as the model card calls it: "cpu", "gpu"
    cost: str  # hardware and hours, as they were where it was run; the card repeats it
    scenes: SceneSource
    autoencoder: AutoencoderRecipe
    diffusion: DiffusionRecipe
    turbo: TurboRecipe
    clip: ClipRecipe
    vit: VitRecipe
    segmenter: SegmenterRecipe


class QualityConfig(Config):
    """How the mini models are judged."""

    # Worlds of held-out scenes, as world.eval_seed names one; every figure is measured on each.
    eval_seeds: tuple[NonNegativeInt, ...] = Field(min_length=1)
    scenes: PositiveInt  # of each
    images: int = Field(ge=2)  # generated for each, of whole phrases and of bare names
    timestep: int = Field(ge=0, lt=1000)  # of the probed latents
    iterations: PositiveInt  # of SelfCross; the paper's are 2 (002, section 5.1)
    sharpen: float = Field(gt=0)  # power of the self map's rows; 1 = the paper's
    # Further (iterations, sharpen), reported beside it
    variants: tuple[tuple[PositiveInt, float], ...]
    inference_steps: PositiveInt
    guidance: float = Field(gt=0)
    turbo_steps: tuple[PositiveInt, ...] = Field(min_length=1)  # of the turbo model, unguided
    found_score: float = Field(gt=0, lt=1)  # a detection below is no find
    seed: int  # of the pictures' noise, and of that on which layers are chosen

    @field_validator("eval_seeds")
    @classmethod
    def _each_once(cls, seeds: tuple[int, ...]) -> tuple[int, ...]:
        if len(set(seeds)) < len(seeds):
            raise ValueError(f"{list(seeds)} names a world twice")
        return seeds
