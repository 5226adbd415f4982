"""Tiny models of every supported family, written as real folders in diffusers layout."""

from __future__ import annotations

import json
from pathlib import Path

import pytest
import torch
from diffusers import (
    AutoencoderKL,
    DDIMScheduler,
    EulerAncestralDiscreteScheduler,
    PNDMScheduler,
    StableDiffusionPipeline,
    StableDiffusionXLPipeline,
    UNet2DConditionModel,
)
from probing import Case
from tokenizers import Tokenizer, models, pre_tokenizers, trainers
from transformers import (
    CLIPTextConfig,
    CLIPTextModel,
    CLIPTextModelWithProjection,
    CLIPTokenizer,
)

from diffground.backbone.frozen import FrozenDiffusion

SENTENCES = [
    "a photo including a dog, a red cup and the table.",
    "the dog's bowl is next to a cupcake on a wooden table",
    "two people near a traffic light in new york",
]
LENGTH = 32  # tokens that the tiny text encoders read
SOS, EOS = "<|startoftext|>", "<|endoftext|>"


def write_tokenizer(folder: Path) -> CLIPTokenizer:
    """Trains merges on a few sentences and writes them as released SD 1.x tokenizers are."""
    alphabet = sorted(pre_tokenizers.ByteLevel.alphabet())
    trained = Tokenizer(models.BPE(end_of_word_suffix="</w>"))
    trained.pre_tokenizer = pre_tokenizers.Sequence(
        [pre_tokenizers.Whitespace(), pre_tokenizers.ByteLevel(add_prefix_space=False)]
    )
    trainer = trainers.BpeTrainer(vocab_size=400, end_of_word_suffix="</w>", show_progress=False)
    trained.train_from_iterator(SENTENCES * 3, trainer)
    merges = [tuple(pair) for pair in json.loads(trained.to_str())["model"]["merges"]]
    words = [*alphabet, *(f"{byte}</w>" for byte in alphabet), *map("".join, merges), SOS, EOS]
    vocab = {word: index for index, word in enumerate(dict.fromkeys(words))}
    folder.mkdir(parents=True)
    (folder / "vocab.json").write_text(json.dumps(vocab), "utf-8")
    lines = ["#version: 0.2", *(" ".join(pair) for pair in merges)]
    (folder / "merges.txt").write_text("\n".join(lines) + "\n", "utf-8")
    config = {
        "model_max_length": LENGTH,
        "tokenizer_class": "CLIPTokenizer",
        "bos_token": SOS,
        "eos_token": EOS,
        "pad_token": EOS,
        "unk_token": EOS,
    }
    (folder / "tokenizer_config.json").write_text(json.dumps(config), "utf-8")
    return CLIPTokenizer.from_pretrained(folder)


def text_config(tokenizer: CLIPTokenizer, **changes: object) -> CLIPTextConfig:
    return CLIPTextConfig(
        vocab_size=len(tokenizer),
        hidden_size=16,
        intermediate_size=32,
        num_hidden_layers=3,
        num_attention_heads=2,
        max_position_embeddings=LENGTH,
        projection_dim=12,
        bos_token_id=tokenizer.bos_token_id,
        eos_token_id=tokenizer.eos_token_id,
        pad_token_id=tokenizer.pad_token_id,
        **changes,
    )


def make_vae() -> AutoencoderKL:
    return AutoencoderKL(
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        block_out_channels=(8, 8, 8, 8),
        norm_num_groups=4,
        latent_channels=4,
        scaling_factor=0.18215,
    )


def make_unet(levels: str, **changes: object) -> UNet2DConditionModel:
    """A UNet with a level per letter: "x" has cross-attention, "." does not."""
    down = {"x": "CrossAttnDownBlock2D", ".": "DownBlock2D"}
    up = {"x": "CrossAttnUpBlock2D", ".": "UpBlock2D"}
    config: dict = {
        "down_block_types": tuple(down[level] for level in levels),
        "up_block_types": tuple(up[level] for level in reversed(levels)),
        "block_out_channels": (16, 32, 32, 32)[: len(levels)],
        "norm_num_groups": 8,
        "attention_head_dim": 4,  # the number of heads, as in the released SD 1.x
        "cross_attention_dim": 16,
        "layers_per_block": 2,
        "sample_size": 16,
    }
    unet = UNet2DConditionModel(**{**config, **changes})
    with torch.no_grad():  # sharper attention than at random initialisation
        for name, weight in unet.named_parameters():
            if name.endswith(("to_q.weight", "to_k.weight")):
                weight.mul_(4)
    return unet


SCHEDULE = {"beta_start": 0.00085, "beta_end": 0.012, "beta_schedule": "scaled_linear"}


@pytest.fixture(scope="session")
def folders(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Path]:
    torch.manual_seed(0)
    root = tmp_path_factory.mktemp("models")
    tokenizer = write_tokenizer(root / "tokenizer")
    unets = {
        "sd1": make_unet("xxx."),
        "sd2": make_unet("xxx.", use_linear_projection=True, attention_head_dim=(2, 4, 4, 4)),
        "sdxl": make_unet(
            ".xx",
            use_linear_projection=True,
            attention_head_dim=(2, 4, 4),
            transformer_layers_per_block=(1, 2, 3),
            cross_attention_dim=32,
            addition_embed_type="text_time",
            addition_time_embed_dim=8,
            projection_class_embeddings_input_dim=12 + 6 * 8,
        ),
    }
    schedulers = {
        "sd1": PNDMScheduler(**SCHEDULE, skip_prk_steps=True, steps_offset=1),
        "sd2": DDIMScheduler(
            **SCHEDULE, prediction_type="v_prediction", steps_offset=1, clip_sample=False
        ),
        "sdxl": EulerAncestralDiscreteScheduler(**SCHEDULE, timestep_spacing="trailing"),
    }
    for family, unet in unets.items():
        parts = {
            "vae": make_vae(),
            "text_encoder": CLIPTextModel(text_config(tokenizer)),
            "tokenizer": tokenizer,
            "unet": unet,
            "scheduler": schedulers[family],
        }
        if family == "sdxl":
            second = CLIPTextModelWithProjection(text_config(tokenizer, hidden_act="gelu"))
            pipeline = StableDiffusionXLPipeline(
                **parts, text_encoder_2=second, tokenizer_2=tokenizer, add_watermarker=False
            )
        else:
            pipeline = StableDiffusionPipeline(
                **parts, safety_checker=None, feature_extractor=None, requires_safety_checker=False
            )
        pipeline.save_pretrained(root / family)
    # The released SD 1.x tokenizer has no tokenizer.json.
    (root / "sd1/tokenizer/tokenizer.json").unlink()
    for name in ("vocab.json", "merges.txt"):
        (root / "sd1/tokenizer" / name).write_bytes((root / "tokenizer" / name).read_bytes())
    return {family: root / family for family in unets}


@pytest.fixture(scope="session")
def models_by_family(folders: dict[str, Path]) -> dict[str, FrozenDiffusion]:
    return {family: FrozenDiffusion.from_pretrained(path) for family, path in folders.items()}


@pytest.fixture(scope="session")
def sd1(models_by_family: dict[str, FrozenDiffusion]) -> FrozenDiffusion:
    return models_by_family["sd1"]


@pytest.fixture(scope="session", params=["sd1", "sd2", "sdxl"])
def model(
    request: pytest.FixtureRequest, models_by_family: dict[str, FrozenDiffusion]
) -> FrozenDiffusion:
    return models_by_family[request.param]


@pytest.fixture
def case(model: FrozenDiffusion) -> Case:
    return Case(model)


@pytest.fixture
def one(sd1: FrozenDiffusion) -> Case:
    return Case(sd1)
