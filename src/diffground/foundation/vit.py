"""The mini ViT: a self-supervised image encoder, whose patches describe what is there.

Trained in the manner of DINO (Caron et al., ICCV 2021): a student that sees crops of a scene, small
ones too, is to say what a teacher says of its large crops; the teacher is the student's moving
average. Neither words nor masks are seen.

``B`` images · ``V`` crops of each · ``P`` prototypes
"""

from __future__ import annotations

from typing import Any, Final, cast

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from diffground.foundation.config import VitRecipe
from diffground.foundation.fitting import Workshop
from diffground.foundation.scenes import Scenes, picture

# DINO's own values, but for the centre's: ours has fewer prototypes, and follows faster.
STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04
CENTRE_MOMENTUM: Final = 0.9
GLOBALS: Final = 2  # large crops of an image, which the teacher sees
LARGE, SMALL = (0.3, 1.0), (0.06, 0.3)  # shares of the image's area
ASPECT: Final = (3 / 4, 4 / 3)
JITTER: Final = 0.3  # of brightness, contrast and saturation, each way


def build_vit(recipe: VitRecipe, size: int) -> ViTModel:
    """A vision transformer for images of ``size`` pixels, and by interpolation of others."""
    return ViTModel(
        ViTConfig(
            hidden_size=recipe.width,
            intermediate_size=4 * recipe.width,
            num_hidden_layers=recipe.layers,
            num_attention_heads=recipe.heads,
            image_size=size,
            patch_size=recipe.patch,
        ),
        add_pooling_layer=False,
    )


def build_processor(size: int) -> ViTImageProcessorPil:
    """Pixels are scaled to [-1, 1], as in training."""
    return ViTImageProcessorPil(
        size={"height": size, "width": size},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


class _Student(nn.Module):
    """The encoder, and behind its class token the head that is thrown away after training."""

    def __init__(self, recipe: VitRecipe, size: int) -> None:
        super().__init__()
        self.vit = build_vit(recipe, size)
        hidden = 2 * recipe.width
        self.head = nn.Sequential(
            nn.Linear(recipe.width, hidden), nn.GELU(), nn.Linear(hidden, recipe.bottleneck)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, bottleneck) of length 1, of images (B, 3, h, w)."""
        output = self.vit(pixel_values=images, interpolate_pos_encoding=True)
        return functional.normalize(self.head(output.last_hidden_state[:, 0]), dim=-1)


class Distillation(nn.Module):
    """Student and teacher. The teacher's weights are buffers, so that checkpoints have them."""

    def __init__(self, recipe: VitRecipe, size: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.student = _Student(recipe, size)
        self.prototypes = nn.Parameter(torch.randn(recipe.prototypes, recipe.bottleneck))
        for name, weights in self._weights().items():
            self.register_buffer(_buffer(name), weights.clone())
        self.register_buffer("centre", torch.zeros(recipe.prototypes))

    def _weights(self) -> dict[str, Tensor]:
        """What the teacher averages: the student's weights, and the prototypes."""
        own = {f"student.{n}": p.detach() for n, p in self.student.named_parameters()}
        return {**own, "prototypes": self.prototypes.detach()}

    def teacher(self) -> dict[str, Tensor]:
        """The teacher's weights by the names that the student's encoder and head have."""
        names = [name for name, _ in self.student.named_parameters()]
        return {name: self.get_buffer(_buffer(f"student.{name}")) for name in names}

    @torch.no_grad()
    def follow(self) -> None:
        """Moves the teacher a step towards the student."""
        for name, weights in self._weights().items():
            self.get_buffer(_buffer(name)).lerp_(weights, 1 - self.recipe.momentum)

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The loss of images (B, 3, H, W) in [-1, 1], under crops drawn anew.

        ``entropy`` of what the teacher says tells of a collapse: to 0 if it says one thing always
        (so does ``spread``, the entropy of its mean), to log P if it says nothing.
        """
        self.follow()
        recipe = self.recipe
        large = crops(images, GLOBALS, LARGE, recipe.large)
        small = crops(images, recipe.views, SMALL, recipe.small)
        with torch.no_grad():
            told = functional_call(self.student, self.teacher(), (large,))
            logits = told @ functional.normalize(self.get_buffer(_buffer("prototypes"))).T
            centre = cast(Tensor, self.centre)
            target = ((logits - centre) / TEACHER_TEMPERATURE).softmax(-1)
            centre.lerp_(logits.mean(0), 1 - CENTRE_MOMENTUM)
        said = torch.cat([self.student(large), self.student(small)])
        logits = said @ functional.normalize(self.prototypes).T / STUDENT_TEMPERATURE
        found = logits.log_softmax(-1).unflatten(0, (GLOBALS + recipe.views, -1))  # (V, B, P)
        wanted = target.unflatten(0, (GLOBALS, -1))
        losses = [
            -(wanted[t] * found[v]).sum(-1).mean()
            for t in range(GLOBALS)
            for v in range(len(found))
            if t != v  # a crop need not agree with itself
        ]
        return {
            "loss": torch.stack(losses).mean(),
            "entropy": torch.special.entr(target).sum(-1).mean(),
            "spread": torch.special.entr(target.mean(0)).sum(),
        }


def crops(images: Tensor, count: int, areas: tuple[float, float], size: int) -> Tensor:
    """``count`` random crops of every image, (count * B, 3, size, size), the first of all first.

    Each has an area of the image and an aspect of its own, may be mirrored, and is brighter or
    darker, of more or less contrast and of stronger or weaker colours.
    """
    images = images.repeat(count, 1, 1, 1)
    number = len(images)
    draw = torch.rand(5, number, device=images.device)
    area = areas[0] + (areas[1] - areas[0]) * draw[0]
    low, high = ASPECT
    aspect = low * (high / low) ** draw[1]
    wide, tall = (area * aspect).sqrt().clamp(max=1), (area / aspect).sqrt().clamp(max=1)
    theta = images.new_zeros(number, 2, 3)
    theta[:, 0, 0] = wide * (draw[2] < 0.5).float().mul(2).sub(1)
    theta[:, 1, 1] = tall
    theta[:, 0, 2] = (2 * draw[3] - 1) * (1 - wide)
    theta[:, 1, 2] = (2 * draw[4] - 1) * (1 - tall)
    grid = functional.affine_grid(theta, [number, 3, size, size], align_corners=False)
    cut = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    light, contrast, colour = (
        1 + JITTER * (2 * torch.rand(3, number, 1, 1, 1, device=images.device) - 1)
    )
    cut = (cut + 1) * light - 1
    mean = cut.mean((1, 2, 3), keepdim=True)
    cut = mean + (cut - mean) * contrast
    grey = cut.mean(1, keepdim=True)
    return (grey + (cut - grey) * colour).clamp(-1, 1)


def train_vit(shop: Workshop) -> ViTModel:
    """Trains the mini ViT on scenes; returns the teacher, which is better than its student."""
    recipe = shop.recipe.vit
    torch.manual_seed(recipe.train.seed)
    model = Distillation(recipe, shop.canvas.size)
    data: Any = Scenes(shop.scenes(recipe.scenes), picture)
    shop.fit("vit", model, lambda m, batch: m(batch), data, recipe.train, recipe.model_dump_json())
    model.student.load_state_dict(model.teacher())
    return model.student.vit


def _buffer(name: str) -> str:
    return f"teacher_{name.replace('.', '_')}"
