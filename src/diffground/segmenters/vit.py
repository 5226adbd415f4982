"""Dense descriptors of a self-supervised vision transformer, after Amir et al. (2021, paper 002's
reference 61): the keys of one of its layers, and which patches the image is about.

vit = VitDescriptors.from_pretrained("data/06_models/mini-vit")
described = vit(image, short_side=128)

``h, w`` patches of the image · ``C`` channels of a descriptor
"""

from __future__ import annotations

import math
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Self

import numpy as np
import torch
from numpy.typing import NDArray
from PIL import Image
from torch import Tensor, nn
from torch.nn import functional
from transformers import Dinov2Model, ViTModel

from diffground.backbone.folder import loading
from diffground.errors import InputError
from diffground.io.files import check_sums, read_json

KINDS: dict[str, Any] = {"vit": ViTModel, "dinov2": Dinov2Model}  # by config.json's model_type
FILES = ("config.json", "model.safetensors", "preprocessor_config.json")


@dataclass(frozen=True)
class Described:
    """An image's patches: ``keys`` (C, h, w), and ``saliency`` (h, w) in [0, 1].

    ``states`` (D, h, w) are the last layer's outputs, after the final norm.
    """

    keys: Tensor
    saliency: Tensor
    states: Tensor


class VitDescriptors:
    """Describes the patches of images of any size; a folder of transformers' ViT or DINOv2."""

    def __init__(self, model: nn.Module, mean: list[float], std: list[float]) -> None:
        self.model = model.eval().requires_grad_(False)
        self.mean, self.std = torch.tensor(mean), torch.tensor(std)
        config: Any = model.config
        self.patch, self.heads = int(config.patch_size), int(config.num_attention_heads)
        named = dict(model.named_modules())
        self._keys = [named[name] for name in named if name.endswith(".k_proj")]
        self._queries = [named[name] for name in named if name.endswith(".q_proj")]

    @classmethod
    def from_pretrained(cls, folder: str | Path, *, device: str | torch.device = "cpu") -> Self:
        """Loads a local folder; InputError if it, or a part of it, is not there, damaged or not of
        a vision transformer."""
        folder = Path(folder)
        for name in FILES:
            if not (folder / name).is_file():
                raise InputError(folder, name, "the vision transformer's folder lacks it")
        kind = (read_json(folder / "config.json") or {}).get("model_type")
        if kind not in KINDS:
            reason = f"{kind!r}, not one of {', '.join(KINDS)}"
            raise InputError(folder / "config.json", "model_type", reason)
        scale = read_json(folder / "preprocessor_config.json") or {}
        for field in ("image_mean", "image_std"):
            values: Any = scale.get(field)
            three = isinstance(values, list) and len(values) == 3  # noqa: PLR2004
            if not three or not all(isinstance(value, int | float) for value in values):
                where = folder / "preprocessor_config.json"
                raise InputError(where, field, "three numbers are needed, of red, green and blue")
        check_sums(folder, "fetch the folder again, or `git checkout -- <folder>` if it is tracked")
        extra = {"add_pooling_layer": False} if kind == "vit" else {}
        with loading(folder):
            model = KINDS[kind].from_pretrained(
                folder, local_files_only=True, use_safetensors=True, dtype=torch.float32, **extra
            )
        return cls(model.to(device), scale["image_mean"], scale["image_std"])

    @property
    def layers(self) -> int:
        """How many layers there are."""
        return len(self._keys)

    @torch.no_grad()
    def __call__(self, image: NDArray[np.uint8], *, short_side: int, layer: int = -1) -> Described:
        """Describes an image, uint8 RGB (H, W, 3).

        It is resized (bilinear) so that its short side has about ``short_side`` pixels, both sides
        multiples of the patch. ``layer`` is the one whose keys are the descriptors, -1 the last.
        Saliency is the attention of the class token in the last layer, the mean over its heads,
        stretched to [0, 1]. (The public code takes four of the six heads of DINO's ViT-S/8, chosen
        by eye, which another network does not have.)

        Raises:
            InputError: there is no such layer.
        """
        if not -self.layers <= layer < self.layers:
            reason = f"{layer}, but the vision transformer has {self.layers} layers"
            raise InputError("descriptors", "layer", reason)
        pixels = self._pixels(image, short_side)
        height, width = (side // self.patch for side in pixels.shape[-2:])
        kept: dict[str, Tensor] = {}

        def keep(name: str) -> Any:
            return lambda module, inputs, output: kept.__setitem__(name, output[0])

        hooks = [
            self._keys[layer].register_forward_hook(keep("keys")),
            self._keys[-1].register_forward_hook(keep("last")),
            self._queries[-1].register_forward_hook(keep("queries")),
        ]
        try:
            # DINOv2 always interpolates its positions, and takes no word for it.
            told = {"interpolate_pos_encoding": True} if isinstance(self.model, ViTModel) else {}
            states = self.model(pixel_values=pixels, **told).last_hidden_state[0]
        finally:
            for hook in hooks:
                hook.remove()

        def grid(tokens: Tensor) -> Tensor:
            return tokens[1:].T.unflatten(-1, (height, width)).cpu()  # the first is the class token

        queries, keys = (
            kept[name].unflatten(-1, (self.heads, -1)).transpose(0, 1)
            for name in ("queries", "last")
        )
        scores = queries[:, :1] @ keys.transpose(1, 2) / math.sqrt(keys.shape[-1])
        attention = scores.softmax(-1)[:, 0, 1:].mean(0).unflatten(0, (height, width)).cpu()
        low, high = attention.min(), attention.max()
        saliency = (attention - low) / (high - low).clamp_min(1e-8)
        return Described(grid(kept["keys"]), saliency, grid(states))

    def _pixels(self, image: NDArray[np.uint8], short_side: int) -> Tensor:
        """(1, 3, h * patch, w * patch), normalised, on the model's device."""
        scale = short_side / min(image.shape[:2])
        height, width = (
            max(1, round(side * scale / self.patch)) * self.patch for side in image.shape[:2]
        )
        resized = Image.fromarray(image).resize((width, height), Image.Resampling.BILINEAR)
        pixels = torch.from_numpy(np.array(resized)).float() / 255
        normalised = ((pixels - self.mean) / self.std).permute(2, 0, 1)[None]
        return normalised.to(next(self.model.parameters()).device)


def similarity(descriptors: Tensor, references: Tensor) -> Tensor:
    """How near each of (N, C) descriptors comes to any of (M, C): the largest cosine, (N,)."""
    first = functional.normalize(descriptors, dim=-1)
    return (first @ functional.normalize(references, dim=-1).T).amax(-1)
