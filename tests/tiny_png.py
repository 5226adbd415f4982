"""A tiny Stable Diffusion folder with random weights, and a tiny benchmark."""

from __future__ import annotations

import json
import tempfile
from functools import cache
from pathlib import Path

import numpy as np
import torch
from diffusers import AutoencoderKL, DDIMScheduler, UNet2DConditionModel
from png_world import chunk, narrative
from recipes import recipe
from transformers import CLIPTextConfig, CLIPTextModel, CLIPTokenizer

from diffground.backbone.frozen import FrozenDiffusion
from diffground.data.png_benchmark import PngBenchmark, PngSample
from diffground.io.images import write_png
from diffground.io.panoptic import encode_panoptic
from diffground.papers.png.config import LossConfig, PngConfig, PngModelConfig
from diffground.papers.png.heads import PngOutputs
from diffground.papers.png.losses import png_losses
from diffground.papers.png.model import PngModel
from diffground.papers.png.narratives import PngBatch, PngDataConfig, PngDataset, collate

CHANNELS = (8, 16, 16, 16)
TEXT = 16  # channels of the text encoder
SIDE = 64  # pixels: latents 8 x 8
TOPOLOGY = {
    "layers_per_block": 2,
    "down_block_types": ("CrossAttnDownBlock2D",) * 3 + ("DownBlock2D",),
    "up_block_types": ("UpBlock2D",) + ("CrossAttnUpBlock2D",) * 3,
}
DATA = recipe(PngDataConfig, image_size=SIDE)
LOSS = recipe(LossConfig)
#: Sizes of the model's parts, as ``PngModelConfig`` takes them.
MODEL = {
    "checkpoint": False,
    "inner_width": 8,
    "eipa": {"zoom": 16, "heads": 4, "ffn": 8},
    "mlma": {"width": 16, "layers": 2, "heads": 4, "points": 2, "ffn": 32},
    "decoder": {"layers": 3, "heads": 4, "ffn": 32},
}
#: A tiny experiment, as ``PngConfig`` takes it.
TINY = {
    "scale": "mini",
    "precision": "float32",
    "device": "cpu",
    "data": {"image_size": SIDE},
    "model": MODEL,
    "train": {"max_steps": 1, "batch_size": 1, "learning_rate": 1e-3},
}
_FOLDERS = tempfile.TemporaryDirectory()  # removed when the tests end


def backbone(seed: int = 0) -> FrozenDiffusion:
    """The tiny model, made once per process."""
    return _backbone(seed)  # by position: a cache tells `backbone(seed=1)` from `backbone(1)`


@cache
def _backbone(seed: int) -> FrozenDiffusion:
    return FrozenDiffusion.from_pretrained(
        make_diffusion(Path(_FOLDERS.name) / f"tiny-sd-{seed}", seed)
    )


@cache
def benchmark() -> PngBenchmark:
    """The tiny benchmark's training split, made once per process."""
    return PngBenchmark(make_benchmark(Path(_FOLDERS.name) / "png"), "train2017")


def samples() -> list[PngSample]:
    """Its four narratives."""
    return benchmark().read()[0]


def dataset(samples: list[PngSample], **more) -> PngDataset:
    """Narratives of the tiny world, to be read."""
    return PngDataset(samples, benchmark().categories, DATA, **more)


def batch(*indices: int) -> PngBatch:
    """Narratives of the tiny benchmark, by index."""
    data = dataset(samples())
    return collate([data[index] for index in indices])


def losses(outputs: PngOutputs, batch: PngBatch) -> dict[str, torch.Tensor]:
    """What a training makes of a model's outputs."""
    return png_losses(outputs, batch.targets, batch.categories, LOSS)


def config(**changes) -> PngConfig:
    """The tiny experiment; ``model={"insertion": "none"}`` changes a part of a section."""
    for name, value in changes.items():
        changes[name] = TINY.get(name, {}) | value if isinstance(value, dict) else value
    return recipe(PngConfig, **TINY | changes)


def model(frozen: FrozenDiffusion | None = None, **options) -> PngModel:
    """A PNG model with weights of its own seed, in the tiny model unless in another."""
    settings = recipe(PngModelConfig, **MODEL | options)
    frozen = frozen or backbone()  # made before the seed is set
    torch.manual_seed(0)
    return PngModel(frozen, settings, benchmark().categories.ids)


def make_diffusion(folder: Path, seed: int = 0) -> Path:
    """A folder in diffusers layout with SD 1.x's topology: 16 attn2, one in the middle."""
    torch.manual_seed(seed)
    UNet2DConditionModel(
        sample_size=8,
        block_out_channels=CHANNELS,
        cross_attention_dim=TEXT,
        attention_head_dim=2,
        norm_num_groups=4,
        **TOPOLOGY,
    ).save_pretrained(folder / "unet")
    AutoencoderKL(
        block_out_channels=(4, 4, 4, 4),
        down_block_types=("DownEncoderBlock2D",) * 4,
        up_block_types=("UpDecoderBlock2D",) * 4,
        layers_per_block=1,
        latent_channels=4,
        norm_num_groups=2,
    ).save_pretrained(folder / "vae")
    DDIMScheduler(beta_schedule="scaled_linear").save_pretrained(folder / "scheduler")
    characters = [chr(c) for c in range(33, 127)]
    words = ["<|startoftext|>", "<|endoftext|>", *characters, *(c + "</w>" for c in characters)]
    (folder / "tokenizer").mkdir(parents=True)
    vocabulary = folder / "tokenizer/vocab.json"
    vocabulary.write_text(json.dumps({word: index for index, word in enumerate(words)}))
    merges = folder / "tokenizer/merges.txt"
    merges.write_text("#version: 0.2\n")
    CLIPTokenizer(str(vocabulary), str(merges), model_max_length=77).save_pretrained(
        folder / "tokenizer"
    )
    CLIPTextModel(
        CLIPTextConfig(
            vocab_size=len(words),
            hidden_size=TEXT,
            intermediate_size=TEXT,
            num_hidden_layers=1,
            num_attention_heads=2,
            bos_token_id=0,
            eos_token_id=1,
            pad_token_id=1,
        )
    ).save_pretrained(folder / "text_encoder")
    index = {"_class_name": "StableDiffusionPipeline"}
    (folder / "model_index.json").write_text(json.dumps(index))
    return folder


# Caption chunks per narrative: (text, segment names, plural). Segments: see _draw.
NARRATIVES = [
    [
        ("a", [], False),
        ("ball", ["ball"], False),
        ("on the", [], False),
        ("grass", ["grass"], False),
    ],
    [("two balls", ["ball", "ball2"], True), ("below a", [], False), ("sky", ["sky"], False)],
    [("the", [], False), ("grass", ["grass"], False), ("and", [], False), ("sky", ["sky"], False)],
    [("just the", [], False), ("ball and sky", ["ball", "sky"], True)],
]
SEGMENTS = {"ball": (11, 1), "ball2": (12, 1), "grass": (13, 120), "sky": (14, 150)}


def make_benchmark(root: Path, splits: tuple[str, ...] = ("train2017", "val2017")) -> Path:
    """A benchmark of four narratives per split, each with its own image."""
    for split in splits:
        images, pngs = root / "images" / split, root / "annotations/panoptic_segmentation" / split
        panoptic, rows = {"images": [], "annotations": []}, []
        for number, chunks in enumerate(NARRATIVES, start=1):
            pixels, ids = _draw(number)
            write_png(images / f"{number:012d}.png", pixels)
            write_png(pngs / f"{number:012d}.png", encode_panoptic(ids))
            panoptic["images"].append(
                {"id": number, "file_name": f"{number:012d}.png", "height": SIDE, "width": SIDE}
            )
            segments = [
                {"id": i, "category_id": c, "bbox": [0, 0, i, i], "area": 9, "iscrowd": 0}
                for i, c in SEGMENTS.values()
            ]
            panoptic["annotations"].append(
                {
                    "image_id": number,
                    "file_name": f"{number:012d}.png",
                    "segments_info": segments,
                }
            )
            caption = " ".join(text for text, _, _ in chunks) + "."
            parts = [
                chunk(text, [SEGMENTS[name][0] for name in names], plural=plural)
                for text, names, plural in [*chunks, (".", [], False)]
            ]
            rows.append(narrative(str(number), caption, parts))
        panoptic["categories"] = [
            {"id": 1, "name": "ball", "isthing": 1},
            {"id": 120, "name": "grass", "isthing": 0},
            {"id": 150, "name": "sky", "isthing": 0},
        ]
        (root / f"annotations/panoptic_{split}.json").write_text(json.dumps(panoptic))
        (root / f"annotations/png_coco_{split}.json").write_text(json.dumps(rows))
    return root


def _draw(number: int) -> tuple[np.ndarray, np.ndarray]:
    """Sky above grass with two balls; the pixels and the segment ids."""
    y, x = np.mgrid[:SIDE, :SIDE]
    ids = np.where(y < SIDE // 2, SEGMENTS["sky"][0], SEGMENTS["grass"][0]).astype(np.uint32)
    for name, at in (("ball", 12 + 4 * number), ("ball2", 50)):
        ids[(x - at) ** 2 + (y - 36) ** 2 < 64] = SEGMENTS[name][0]
    colours = {11: (220, 40, 40), 12: (40, 40, 220), 13: (40, 160, 40), 14: (150, 200, 250)}
    pixels = np.zeros((SIDE, SIDE, 3), np.uint8)
    for segment, colour in colours.items():
        pixels[ids == segment] = colour
    return pixels, ids
