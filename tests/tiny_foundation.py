"""A tiny recipe of the mini models: two steps a part."""

from __future__ import annotations

from recipes import recipe
from tiny_world import SIZES

from diffground.foundation.config import FoundationRecipe, QualityConfig
from diffground.world.config import Canvas

CANVAS = Canvas(64, SIZES)
TRAIN = {"max_steps": 2, "batch_size": 4, "learning_rate": 1e-3}
PHASES = [
    {"timestep_power": 0.5, "bare": 0.0, "train": TRAIN},
    {"timestep_power": 1.0, "bare": 0.25, "train": TRAIN},
]
RECIPE = recipe(
    FoundationRecipe,
    name="test",
    cost="a second of one core",
    scenes={"seed": 7, "count": 8, "simple": 0.5, "mugs": 0.25},
    autoencoder={"channels": [8, 8, 8, 8], "crop": 32, "whole_share": 0.5, "kl_weight": 1e-3,
                 "feature_weight": 0.3, "scenes": 8, "train": TRAIN, "refine": TRAIN},
    diffusion={"channels": [8, 8, 16, 16], "text_width": 16, "text_heads": 2, "text_layers": 0,
               "narratives": 0.3, "mixed": 0.4, "phases": PHASES},
    turbo={"channels": [8, 16, 16], "text_width": 8, "heads": 2, "time_width": 4, "steps": 4,
           "pretrain": {"timestep_power": 0.5, "bare": 0.5, "train": TRAIN},
           "trajectories": {"count": 10, "steps": 8, "guidance": 3.0, "bare": 0.5, "seed": 10},
           "distil": {"first": 0.6, "feature_weight": 0.3, "train": TRAIN}},
    clip={"width": 16, "layers": 1, "heads": 2, "scenes": 8, "train": TRAIN},
    vit={"width": 16, "layers": 2, "heads": 2, "bottleneck": 8, "prototypes": 8, "large": 32,
         "small": 16, "views": 2, "scenes": 8, "train": TRAIN},
    segmenter={
        "stem": 8, "channels": [8, 8, 16, 16], "width": 32, "heads": 2, "encoder_layers": 1,
        "decoder_layers": 1, "points": 64, "scenes": 8, "train": TRAIN, "refine": TRAIN,
    },
)  # fmt: skip
QUALITY = recipe(
    QualityConfig,
    eval_seeds=[11, 12],
    scenes=32,
    images=3,
    inference_steps=2,
    turbo_steps=[1, 2],
    found_score=0.01,
)
