"""DeepLabV2: a dilated ResNet, atrous spatial pyramid pooling, and multi-scale inputs.

Chen et al. (TPAMI 2018, [49] of From Text to Mask), with the settings of the public PyTorch version
that the paper trains (appendix A): rates 6, 12, 18, 24 summed, output stride 8, inputs at 0.5, 0.75
and 1 merged by the element-wise maximum, batch norm frozen.

``B`` images · ``C`` classes, the background included · ``H, W`` pixels ·
``h, w`` = ``ceil(H / stride)``, ``ceil(W / stride)``
"""

from __future__ import annotations

from collections.abc import Sequence
from pathlib import Path
from typing import Final, Self

import torch
from pydantic import ValidationError
from torch import Tensor, nn
from torch.nn import functional
from transformers import ResNetConfig, ResNetModel

from diffground.config import refused
from diffground.errors import InputError, shortened
from diffground.io.files import check_seal, write_json
from diffground.metrics.iou import UNSURE
from diffground.seeds import derive_seed
from diffground.segmenters.config import DeepLabConfig, ResNetShape
from diffground.segmenters.resnet import (
    CONFIG,
    WEIGHTS,
    dilate,
    load_resnet,
    need_file,
    read_config,
)
from diffground.training.checkpoint import load_weights, save_weights
from diffground.training.processes import gathered, processes

# Raised when the same weights and pixels give other scores or losses, or a seed other weights.
CODE_VERSION: Final = 1


class DeepLabV2(nn.Module):
    """Maps normalised images ``(B, 3, H, W)`` to class scores.

    ``classes`` are the names of label 0, the background, 1, ...
    """

    def __init__(self, resnet: ResNetConfig, classes: Sequence[str], config: DeepLabConfig) -> None:
        super().__init__()
        assert 2 <= len(classes) < UNSURE, len(classes)
        self.config, self.classes = config, tuple(classes)
        self.backbone = ResNetModel(resnet)
        if not config.stem_pooling:
            self.backbone.embedder.pooler = nn.Identity()
        dilate(self.backbone, config.output_stride)
        self.aspp = nn.ModuleList(
            nn.Conv2d(resnet.hidden_sizes[-1], len(classes), 3, padding=rate, dilation=rate)
            for rate in config.rates
        )
        for name, parameter in self.aspp.named_parameters():
            if name.endswith("bias"):
                nn.init.zeros_(parameter)
            else:
                nn.init.normal_(parameter, std=0.01)
        if config.batch_norm == "frozen":
            for norm in self._norms():
                norm.requires_grad_(False)

    @classmethod
    def build(cls, config: DeepLabConfig, classes: Sequence[str], *, seed: int) -> Self:
        """A network to be trained; what is not loaded is drawn from ``seed``.

        Raises:
            InputError: ``config.weights`` is no folder of a ResNet, or lacks some of its weights;
                or random batch norms are to be frozen.
        """
        if config.weights is not None:
            loaded = load_resnet(config.weights)
            resnet = loaded.config
        else:
            assert config.shape is not None
            if config.batch_norm == "frozen":
                raise InputError("network", "batch_norm", "frozen needs weights that were trained")
            loaded, resnet = None, ResNetConfig(**config.shape.model_dump())
        with torch.random.fork_rng(devices=[]):
            torch.manual_seed(derive_seed(seed, "deeplab"))
            model = cls(resnet, classes, config)
        if loaded is not None:
            model.backbone.load_state_dict(loaded.state_dict())
        return model

    @classmethod
    def from_pretrained(cls, folder: str | Path) -> Self:
        """Loads what :meth:`save_pretrained` wrote; InputError if a file is missing or damaged."""
        folder = Path(folder)
        remedy = "train with the same settings: it is written again from the checkpoint beside it"
        for name in (CONFIG, WEIGHTS):
            check_seal(folder / name, remedy)
        content = read_config(folder)
        need_file(folder, WEIGHTS)
        try:
            config = DeepLabConfig(**content["network"])
            classes = [str(name) for name in content["classes"]]
        except ValidationError as error:
            raise refused(folder / CONFIG, error, "network") from error
        except (KeyError, TypeError) as error:
            reason = f"not a DeepLab folder ({shortened(error)})"
            raise InputError(folder / CONFIG, "network", reason) from error
        if config.shape is None:
            raise InputError(folder / CONFIG, "shape", "it says not how large the network is")
        if len(classes) < 2:  # noqa: PLR2004
            raise InputError(folder / CONFIG, "classes", "the background and one more are needed")
        model = cls(ResNetConfig(**config.shape.model_dump()), classes, config)
        try:
            model.load_state_dict(load_weights(folder / WEIGHTS, remedy))
        except RuntimeError as error:
            raise InputError(folder / WEIGHTS, "weights", str(error)) from error
        return model.eval()

    def save_pretrained(self, folder: str | Path) -> Path:
        """Writes ``config.json`` and ``model.safetensors`` (every weight, float32)."""
        folder = Path(folder)
        # All weights are in the folder: where the first ones came from no longer matters.
        whole = {"init": "random", "weights": None, "shape": ResNetShape.of(self.backbone.config)}
        network = self.config.model_copy(update=whole).model_dump(mode="json")
        state = {name: t.detach().cpu().contiguous() for name, t in self.state_dict().items()}
        save_weights(state, folder / WEIGHTS)
        write_json(folder / CONFIG, {"classes": self.classes, "network": network}, sealed=True)
        return folder

    def train(self, mode: bool = True) -> Self:
        """As always, but frozen batch norms keep to their running statistics."""
        super().train(mode)
        if self.config.batch_norm == "frozen":
            for norm in self._norms():
                norm.eval()
        return self

    def forward(self, images: Tensor) -> tuple[Tensor, ...]:
        """Scores ``(B, C, h, w)`` of every scale on its own grid, and last their maximum.

        The maximum is on the grid of the full image; a single scale is its own, and stands alone.
        Training takes all of them, prediction the last.
        """
        height, width = images.shape[-2:]
        scores = []
        for scale in self.config.scales:
            size = (max(1, int(height * scale)), max(1, int(width * scale)))
            scaled = images
            if scale != 1.0:
                scaled = functional.interpolate(images, size, mode="bilinear", align_corners=False)
            scores.append(self._at_one_scale(scaled))
        if len(scores) == 1:
            return tuple(scores)
        grid = scores[0].shape[-2:]
        merged = scores[0]
        for other in scores[1:]:
            same = functional.interpolate(other, grid, mode="bilinear", align_corners=False)
            merged = torch.maximum(merged, same)
        return (*scores, merged)

    def _at_one_scale(self, images: Tensor) -> Tensor:
        features = self.backbone(images).last_hidden_state  # (B, F, h, w)
        return torch.stack([branch(features) for branch in self.aspp]).sum(0)

    def _norms(self) -> list[nn.BatchNorm2d]:
        return [module for module in self.modules() if isinstance(module, nn.BatchNorm2d)]


def normalise(image: Tensor, config: DeepLabConfig) -> Tensor:
    """RGB in 0..255, ``(..., 3, H, W)``, less the mean and by the deviation of ``config``."""
    mean = torch.tensor(config.mean, device=image.device).view(3, 1, 1)
    std = torch.tensor(config.std, device=image.device).view(3, 1, 1)
    return (image.float() / 255.0 - mean) / std


def deeplab_loss(scores: tuple[Tensor, ...], labels: Tensor) -> dict[str, Tensor]:
    """Cross-entropy of every scale and of their maximum, summed.

    Args:
        scores: what :class:`DeepLabV2` gives, each ``(B, C, h, w)``.
        labels: int64 ``(B, H, W)``, 255 = not counted; brought to each grid by its nearest pixel.

    Returns:
        ``{"loss": the sum, "merged": that of the maximum}``; 0 where no pixel counts. Where several
        processes share a batch, the mean of theirs is over the pixels of all.
    """
    sums, counts = [], []
    for score in scores:
        near = functional.interpolate(
            labels[:, None].float(), score.shape[-2:], mode="nearest-exact"
        )[:, 0].long()
        sums.append(
            functional.cross_entropy(score.float(), near, ignore_index=UNSURE, reduction="sum")
        )
        counts.append((near != UNSURE).sum())
    pixels = torch.stack(counts)
    if processes().num_processes > 1:
        pixels = torch.tensor(gathered(pixels.tolist()), device=pixels.device).float().mean(0)
    losses = [total / count.clamp_min(1) for total, count in zip(sums, pixels, strict=True)]
    return {"loss": torch.stack(losses).sum(), "merged": losses[-1].detach()}
