"""A small MLMA and features for it, shared by its tests."""

from __future__ import annotations

import torch
from recipes import recipe
from torch import Tensor, nn

from diffground.papers.png.mlma import MLMA, MlmaConfig, MlmaOutputs

B, K, TEXT, WIDTH, HEADS, POINTS = 2, 3, 10, 24, 4, 2
CHANNELS = (6, 8, 12)  # F_3, F_4, F_5
SIZES = [(4, 6), (2, 3), (1, 2)]  # fine to coarse, not square, not even multiples
VALID = torch.tensor([[True, True, False], [True, True, True]])


def make(seed: int = 0, randomised: bool = True, **changes: object) -> MLMA:
    """A small MLMA whose weights, if ``randomised``, make every part matter."""
    sizes = {"width": WIDTH, "layers": 1, "heads": HEADS, "points": POINTS, "ffn": 16}
    torch.manual_seed(seed)
    model = MLMA(CHANNELS, TEXT, recipe(MlmaConfig, **(sizes | changes))).eval()
    if randomised:
        for name, parameter in model.named_parameters():
            norm = "norm" in name or name.endswith(("_param", "s.0.1.weight"))
            nn.init.normal_(parameter, 1.0 if norm else 0.0, 0.3)
    return model


def only(part: str, seed: int = 0, **changes: object) -> MLMA:
    parts = ("bi_attention", "deformable", "self_attention")
    return make(seed, **{name: name == part for name in parts}, **changes)


def inputs(seed: int = 0, batch: int = B) -> tuple[list[Tensor], list[Tensor]]:
    g = torch.Generator().manual_seed(seed)
    images = [
        torch.randn(batch, c, *size, generator=g) for c, size in zip(CHANNELS, SIZES, strict=True)
    ]
    return images, [torch.randn(batch, K, TEXT, generator=g) for _ in CHANNELS]


def flat(outputs: MlmaOutputs) -> list[Tensor]:
    return [*outputs.images, *outputs.phrases]
