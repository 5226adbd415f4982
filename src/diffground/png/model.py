"""The PNG model: a frozen diffusion model, EIPA inside it, and its mask heads.

Static prompting (Li et al., section 3.1) is ``insertion: none``: the phrases themselves prompt the
UNet, and the masks are its cross-attention maps. Dynamic prompting (section 3.2) adds the adapter.

The phrases alone are the UNet's context: no start token, no padding to 77, so the softmax of every
block is over the phrases of the caption, and each pixel is shared out among them.
"""

from __future__ import annotations

import json
from collections.abc import Callable
from contextlib import nullcontext
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Literal

import torch
from pydantic import Field, ValidationError, model_validator
from torch import Tensor, nn

from diffground.backbone.frozen import FrozenDiffusion
from diffground.backbone.layers import cross_sites
from diffground.backbone.probe import ProbeRequest
from diffground.config import Config
from diffground.errors import InputError
from diffground.png.data import PngBatch
from diffground.png.eipa import EIPA, EipaConfig, Insertion, insertion_sites
from diffground.png.heads import AdapterHead, AdapterMasks, DiffusionHead
from diffground.png.losses import LossConfig, png_losses
from diffground.png.maps import minmax
from diffground.png.phrases import LongCaptions, encode_captions
from diffground.seeds import derive_seed
from diffground.training.loop import atomic_save, load_trainable, trainable_state

WEIGHTS, CONFIG = "png.safetensors", "png.json"


class PngModelConfig(Config):
    """What the model is. ``auto`` means: as the presence of an adapter asks."""

    insertion: Insertion = "both"  # where EIPA sits (Table 3); none = static prompting
    head: Literal["auto", "diffusion", "adapter"] = "auto"  # whose masks are the prediction
    fusion: Literal["auto", "mean", "learned"] = "auto"  # Diffusion head; auto: mean if no adapter
    time_step: int = Field(default=1, ge=0, lt=1000)  # the paper: 1 in section 3.1, 0 in 4.2
    noise: Literal["none", "seeded"] = "none"  # seeded: noise of the time step, by sample id
    noise_seed: int = 0
    probability: Literal["minmax", "raw"] = "minmax"  # Diffusion head: how a map becomes a mask
    threshold: float = Field(default=0.5, gt=0, lt=1)  # a pixel above it is in the mask
    long_captions: LongCaptions = "chunk"  # captions beyond the text encoder's 77 positions
    checkpoint: bool = False  # activation checkpointing of the UNet in training
    eipa: EipaConfig = EipaConfig()

    @model_validator(mode="after")
    def _choices_fit(self) -> PngModelConfig:
        if self.insertion == "none" and self.head == "adapter":
            raise ValueError("head adapter needs an adapter, insertion is none")
        return self

    @property
    def final_head(self) -> Literal["diffusion", "adapter"]:
        """The head that predicts."""
        if self.head != "auto":
            return self.head
        return "diffusion" if self.insertion == "none" else "adapter"

    @property
    def learns_fusion(self) -> bool:
        """Whether the Diffusion head's weights are learned."""
        return self.fusion == "learned" or (self.fusion == "auto" and self.insertion != "none")

    @property
    def learns(self) -> bool:
        """False for zero-shot static prompting, which has nothing to train."""
        return self.insertion != "none" or self.learns_fusion


@dataclass(frozen=True)
class PngOutputs:
    """The heads' predictions at the masks' size."""

    diffusion: Tensor  # (B, K, h, w) in [0, 1]
    adapter: AdapterMasks | None  # logits
    valid: Tensor  # (B, K), True for real phrases


class PngModel(nn.Module):
    """Phrases and images to masks.

    Args:
        backbone: stays outside of the module tree: it is moved with the model, but is no part of
            its parameters or state, so checkpoints hold what is trained and nothing else.
        category_ids: the panoptic categories in the order of the class indices.
    """

    def __init__(
        self, backbone: FrozenDiffusion, config: PngModelConfig, category_ids: tuple[int, ...]
    ) -> None:
        super().__init__()
        self._outside = (backbone,)
        self.config, self.category_ids = config, tuple(category_ids)
        sites = cross_sites(backbone.unet)
        self.diffusion_head = DiffusionHead(sites)
        self.diffusion_head.logits.requires_grad_(config.learns_fusion)
        self.eipa: EIPA | None = None
        self.adapter_head: AdapterHead | None = None
        if config.insertion != "none":
            modules = dict(backbone.unet.named_modules())
            widths: dict[str, int] = {
                site: modules[site].to_q.in_features
                for site in insertion_sites(sites, config.insertion)
            }
            self.eipa = EIPA(widths, backbone.context_dim, config.eipa, self.diffusion_head.weight)
            self.adapter_head = AdapterHead(
                len(self.eipa.sites), backbone.context_dim, len(self.category_ids)
            )

    @property
    def backbone(self) -> FrozenDiffusion:
        """The frozen diffusion model."""
        return self._outside[0]

    def _apply(self, fn: Callable[[Tensor], Tensor], recurse: bool = True) -> PngModel:
        self.backbone._apply(fn, recurse)
        super()._apply(fn, recurse)
        return self

    def forward(self, batch: PngBatch) -> PngOutputs:
        """All heads' predictions for a batch on the model's device."""
        config, backbone = self.config, self.backbone
        with torch.no_grad():
            context, valid, pooled = encode_captions(
                backbone, batch.captions, batch.spans, config.long_captions
            )
            latents = backbone.encode_images(batch.images.to(backbone.dtype))
            seeds = None
            if config.noise == "seeded":
                seeds = [derive_seed(config.noise_seed, item) for item in batch.ids]
            latents = backbone.add_noise(latents, config.time_step, seeds)
        with nullcontext() if self.eipa is not None else torch.no_grad():
            result = backbone.probe(
                latents,
                config.time_step,
                context,
                ProbeRequest(cross=self.diffusion_head.sites),
                context_mask=valid,
                pooled=pooled,
                adapter=self.eipa,
                checkpoint=config.checkpoint and self.training,
            )
        adapter = None
        if self.eipa is not None and self.adapter_head is not None:
            assert result.state is not None
            sites = self.eipa.outputs(result.state)
            adapter = self.adapter_head(sites.phrases, sites.scores, batch.mask_size)
        return PngOutputs(self.diffusion_head(result.cross, batch.mask_size), adapter, valid)

    def loss(self, batch: PngBatch, config: LossConfig) -> dict[str, Tensor]:
        """The losses of a batch, see :func:`png_losses`."""
        return outputs_loss(self(batch), batch, config)

    @torch.no_grad()
    def predict(self, batch: PngBatch) -> Tensor:
        """Mask probabilities ``(B, K, h, w)`` in [0, 1] of the final head; padded phrases too.

        The adapter head's are a sigmoid. The Diffusion head's maps are stretched to [0, 1] per
        phrase (``minmax``) or taken as they are, the phrase's share of the pixel (``raw``).
        """
        outputs = self(batch)
        if self.config.final_head == "adapter":
            assert outputs.adapter is not None
            return outputs.adapter.combined.sigmoid()
        maps = outputs.diffusion
        return minmax(maps) if self.config.probability == "minmax" else maps.clamp(0, 1)

    def trainable_parameters(self) -> list[nn.Parameter]:
        """What training changes: EIPA and the heads, never the backbone."""
        return [p for p in self.parameters() if p.requires_grad]

    def save(self, folder: Path) -> None:
        """Writes the trained weights (safetensors), the configuration and the backbone's hash."""
        from safetensors.torch import save_file

        folder.mkdir(parents=True, exist_ok=True)
        atomic_save(lambda target: save_file(trainable_state(self), target), folder / WEIGHTS)
        content = {
            "model": self.config.model_dump(mode="json"),
            "category_ids": list(self.category_ids),
            "backbone": {
                "fingerprint": self.backbone.fingerprint(),
                "name": self.backbone.folder.name,
            },
        }
        text = json.dumps(content, indent=2) + "\n"

        def write(target: Path) -> None:
            target.write_text(text, encoding="utf-8")

        atomic_save(write, folder / CONFIG)  # last, and in one step: its presence means finished

    @classmethod
    def load(cls, folder: Path, backbone: FrozenDiffusion) -> PngModel:
        """The model that :meth:`save` wrote, in eval mode on the backbone's device.

        Raises:
            InputError: no such model, a broken one, or one trained in another backbone.
        """
        path = folder / CONFIG
        content = _read_config(path)
        try:
            config = PngModelConfig.model_validate(content["model"])
            category_ids = tuple(int(i) for i in content["category_ids"])
            name, wanted = content["backbone"]["name"], content["backbone"]["fingerprint"]
        except (KeyError, TypeError, ValidationError) as error:
            raise InputError(path, "model", f"not a PNG model's configuration: {error}") from error
        if wanted != backbone.fingerprint():
            raise InputError(
                path,
                "backbone",
                f"trained in {name!r} ({wanted}), which is not the model in {backbone.folder} "
                f"({backbone.fingerprint()}): its weights mean nothing there",
            )
        model = cls(backbone, config, category_ids).to(backbone.device)
        load_trainable(model, folder / WEIGHTS)
        return model.eval()


def outputs_loss(outputs: PngOutputs, batch: PngBatch, config: LossConfig) -> dict[str, Tensor]:
    """The losses of a model's outputs (which a distributed wrapper may have made)."""
    return png_losses(
        outputs.diffusion, outputs.adapter, batch.targets, batch.categories, outputs.valid, config
    )


def _read_config(path: Path) -> dict[str, Any]:
    if not path.exists():
        raise InputError(path, "file", "no trained PNG model lies here")
    try:
        content = json.loads(path.read_text("utf-8"))
    except ValueError as error:
        raise InputError(path, "json", str(error)) from error
    if not isinstance(content, dict):
        raise InputError(path, "json", "an object is expected")
    return content
