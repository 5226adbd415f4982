"""The mini ViT: a self-supervised image encoder, whose patches describe what is there.

Trained in the manner of DINO (Caron et al., ICCV 2021): a student that sees crops of a scene, small
ones too, is to say what a teacher says of its large crops; the teacher is the student's moving
average. As patches are what is described, it is also asked of patches: what the teacher says of the
same place in another crop (iBOT and DINOv2 ask that of patches that were masked).
Neither words nor masks are seen.

``B`` images · ``n`` crops, several of each image · ``P`` prototypes · ``h`` patches of a side
"""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any, Final

import torch
from torch import Tensor, nn
from torch.func import functional_call
from torch.nn import functional
from transformers import ViTConfig, ViTImageProcessorPil, ViTModel

from diffground.foundation.config import VitRecipe
from diffground.foundation.fitting import Workshop
from diffground.foundation.scenes import Scenes, picture

STUDENT_TEMPERATURE, TEACHER_TEMPERATURE = 0.1, 0.04  # DINO's own
ROUNDS: Final = 3  # of Sinkhorn and Knopp, as in DINOv2
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


def vit_processor(size: int) -> ViTImageProcessorPil:
    """Pixels are scaled to [-1, 1], as in training."""
    return ViTImageProcessorPil(
        size={"height": size, "width": size},
        image_mean=[0.5, 0.5, 0.5],
        image_std=[0.5, 0.5, 0.5],
    )


class _Student(nn.Module):
    """The encoder, and behind its tokens the head that is thrown away after training."""

    def __init__(self, recipe: VitRecipe, size: int) -> None:
        super().__init__()
        self.vit = build_vit(recipe, size)
        hidden = 2 * recipe.width
        self.head = nn.Sequential(
            nn.Linear(recipe.width, hidden), nn.GELU(), nn.Linear(hidden, recipe.bottleneck)
        )

    def forward(self, images: Tensor) -> Tensor:
        """(B, 1 + patches, bottleneck) of length 1, the class token first, of (B, 3, h, w)."""
        output = self.vit(pixel_values=images, interpolate_pos_encoding=True)
        return functional.normalize(self.head(output.last_hidden_state), dim=-1)


class Distillation(nn.Module):
    """Student and teacher. The teacher's weights are buffers, so that checkpoints have them."""

    def __init__(self, recipe: VitRecipe, size: int) -> None:
        super().__init__()
        self.recipe = recipe
        self.student = _Student(recipe, size)
        self.prototypes = nn.Parameter(torch.randn(recipe.prototypes, recipe.bottleneck))
        for name, weights in self._weights().items():
            self.register_buffer(_buffer(name), weights.clone())

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

    @torch.no_grad()
    def _told(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """What the teacher says of crops, (G * B, P), and of their patches, (G * B, P, h, h)."""
        states = functional_call(self.student, self.teacher(), (crops.images,))
        logits = states @ functional.normalize(self.get_buffer(_buffer("prototypes")), dim=-1).T
        whole = _shared_out(logits[:, 0])
        patches = _shared_out(logits[:, 1:].flatten(0, 1)).unflatten(0, (len(logits), -1))
        side = crops.images.shape[-1] // self.recipe.patch
        return whole, patches.transpose(1, 2).unflatten(-1, (side, side))

    def _said(self, crops: Crops) -> tuple[Tensor, Tensor]:
        """The logarithms of what the student says of crops, (n, P), and patches, (n, h * h, P)."""
        states = self.student(crops.images)
        logits = states @ functional.normalize(self.prototypes, dim=-1).T / STUDENT_TEMPERATURE
        found = logits.log_softmax(-1)
        return found[:, 0], found[:, 1:]

    def forward(self, images: Tensor) -> dict[str, Tensor]:
        """The loss of images (B, 3, H, W) in [-1, 1], under crops drawn anew.

        The mean of two: that of whole crops, DINO's, and that of the patches of two crops that lie
        on the same place of the image. ``entropy`` of what the teacher says of crops, and
        ``spread``, the entropy of its mean, tell of a collapse: both fall to 0 if it always says
        one thing, and rise to log P if it says nothing.
        """
        self.follow()
        recipe, number = self.recipe, len(images)
        large = draw_crops(images, GLOBALS, LARGE, recipe.large)
        small = draw_crops(images, recipe.views, SMALL, recipe.small)
        whole, patches = self._told(large)
        wholes: list[Tensor] = []
        dense: list[Tensor] = []
        for crops in (large, small):
            said, said_patches = self._said(crops)
            for view, rows in enumerate(_rows(len(crops.images), number)):
                for told, target in enumerate(_rows(len(large.images), number)):
                    if crops is large and view == told:  # a crop need not agree with itself
                        continue
                    wholes.append(-(whole[target] * said[rows]).sum(-1).mean())
                    wanted, seen = _same_place(
                        patches[target], large.places[target], crops.places[rows], crops.images,
                        recipe.patch,
                    )  # fmt: skip
                    loss = -(wanted * said_patches[rows]).sum(-1)
                    dense.append((loss * seen).sum() / seen.sum().clamp_min(1))
        image_loss, patch_loss = torch.stack(wholes).mean(), torch.stack(dense).mean()
        return {
            "loss": (image_loss + patch_loss) / 2,
            "images": image_loss,
            "patches": patch_loss,
            "entropy": torch.special.entr(whole).sum(-1).mean(),
            "spread": torch.special.entr(whole.mean(0)).sum(),
        }


def _shared_out(logits: Tensor) -> Tensor:
    """Probabilities of n logits (n, P), of which every prototype has about the same share.

    By the rounds of Sinkhorn and Knopp. With DINO's centre in their place the teacher says of a
    scene which of ten grounds and skies it has, and of things nothing.
    """
    shares = logits / TEACHER_TEMPERATURE
    for _ in range(ROUNDS):
        shares = shares - shares.logsumexp(0)
        shares = shares - shares.logsumexp(1, keepdim=True)
    return shares.exp()


@dataclass(frozen=True)
class Crops:
    """``images`` (n, 3, s, s), and where they lie: ``places`` (n, 2, 3), from the crop's
    coordinates to the image's, as :func:`torch.nn.functional.affine_grid` takes them."""

    images: Tensor
    places: Tensor


def draw_crops(images: Tensor, count: int, areas: tuple[float, float], size: int) -> Crops:
    """``count`` random crops of every image (B, 3, H, W), the first of all images first.

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
    places = images.new_zeros(number, 2, 3)
    places[:, 0, 0] = wide * (draw[2] < 0.5).float().mul(2).sub(1)  # noqa: PLR2004
    places[:, 1, 1] = tall
    places[:, 0, 2] = (2 * draw[3] - 1) * (1 - wide)
    places[:, 1, 2] = (2 * draw[4] - 1) * (1 - tall)
    grid = functional.affine_grid(places, [number, 3, size, size], align_corners=False)
    cut = functional.grid_sample(images, grid, padding_mode="reflection", align_corners=False)
    light, contrast, colour = 1 + JITTER * (
        2 * torch.rand(3, number, 1, 1, 1, device=images.device) - 1
    )
    cut = (cut + 1) * light - 1
    mean = cut.mean((1, 2, 3), keepdim=True)
    cut = mean + (cut - mean) * contrast
    grey = cut.mean(1, keepdim=True)
    return Crops((grey + (cut - grey) * colour).clamp(-1, 1), places)


def _same_place(
    told: Tensor, told_places: Tensor, places: Tensor, images: Tensor, patch: int
) -> tuple[Tensor, Tensor]:
    """What a teacher's maps (B, P, g, g) say where the patches of other crops are.

    Returns (B, h * h, P), and (B, h * h), 1 for a patch that lies in the teacher's crop, else 0.
    """
    side = images.shape[-1] // patch
    there = functional.affine_grid(places, [len(places), 1, side, side], align_corners=False)
    scale = torch.stack([told_places[:, 0, 0], told_places[:, 1, 1]], -1)[:, None, None]
    grid = (there - told_places[:, None, None, :, 2]) / scale
    found = functional.grid_sample(told, grid, padding_mode="border", align_corners=False)
    seen = (grid.abs() <= 1).all(-1).flatten(1).to(told)
    return found.flatten(2).transpose(1, 2), seen


def _rows(total: int, number: int) -> list[slice]:
    """The rows of each crop of all images: crops of one draw lie side by side."""
    return [slice(start, start + number) for start in range(0, total, number)]


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
