"""A ResNet of transformers as the backbone of a segmenter: strides become dilation."""

from __future__ import annotations

from pathlib import Path
from typing import Any

import torch
from torch import nn
from transformers import ResNetModel

from diffground.backbone.folder import loading
from diffground.errors import InputError
from diffground.io.files import read_json

CONFIG, WEIGHTS = "config.json", "model.safetensors"


def dilate(backbone: ResNetModel, output_stride: int) -> None:
    """Makes ``backbone`` give a cell per ``output_stride`` pixels, by dilation in place of stride.

    The à trous rule: a stride that would go beyond ``output_stride`` becomes 1, and every later
    convolution is spread by it. The same weights then give the coarse grid's values and those in
    between: the old output is each ``k``-th cell of the new one. ResNet-101 at stride 8 gets
    dilation 2 in its third stage and 4 in its fourth. (Where a bottleneck strides in its 3x3
    convolution, as those of transformers do by default, that one convolution comes before its own
    stride, so it gets 1 and 2.)

    Raises:
        InputError: the ResNet's own strides end before ``output_stride``.
    """
    pooled = not isinstance(backbone.embedder.pooler, nn.Identity)
    stride = 4 if pooled else 2  # of the stem
    assert stride <= output_stride, (stride, output_stride)
    spread = 1
    for stage in backbone.encoder.stages:
        for layer in stage.layers:
            entering = spread
            for convolution in (unit.convolution for unit in layer.layer):
                step = convolution.stride[0]
                _spread(convolution, spread)
                if step > 1 and stride * step > output_stride:
                    convolution.stride = (1, 1)
                    spread *= step
                else:
                    stride *= step
            if spread != entering:  # this layer strided, so its shortcut did
                layer.shortcut.convolution.stride = (1, 1)
    if stride != output_stride:
        raise InputError("network", "output_stride", f"this ResNet ends at stride {stride}")


def _spread(convolution: nn.Conv2d, dilation: int) -> None:
    reach = convolution.kernel_size[0] // 2
    convolution.dilation = (dilation, dilation)
    convolution.padding = (reach * dilation, reach * dilation)


def load_resnet(folder: str | Path) -> ResNetModel:
    """A ResNet of transformers (or of a classifier that holds one) from a local folder.

    Raises:
        InputError: there is no such folder, it holds another kind of model, or weights are missing.
    """
    folder = Path(folder)
    kind = read_config(folder).get("model_type")
    if kind != "resnet":
        raise InputError(folder / CONFIG, "model_type", f"{kind!r} is not 'resnet'")
    need_file(folder, WEIGHTS)
    with loading(folder):
        model, report = ResNetModel.from_pretrained(
            folder,
            local_files_only=True,
            use_safetensors=True,
            dtype=torch.float32,
            output_loading_info=True,
        )
    lost = sorted([*report["missing_keys"], *(key[0] for key in report["mismatched_keys"])])
    if lost:
        raise InputError(
            folder / WEIGHTS, "weights", f"{len(lost)} are missing or misshapen, as {lost[0]!r}"
        )
    resnet = model.config
    odd = resnet.hidden_act != "relu" or resnet.downsample_in_first_stage
    if odd or resnet.num_channels != 3:
        raise InputError(
            folder / CONFIG, "architecture", "only RGB ResNets with ReLU and the usual strides fit"
        )
    return model


def read_config(folder: Path) -> dict[str, Any]:
    """A model folder's ``config.json``; InputError if it is missing or no JSON object."""
    need_file(folder, CONFIG)
    content = read_json(folder / CONFIG)
    if content is None:
        raise InputError(folder / CONFIG, "file", "not a JSON object")
    return content


def need_file(folder: Path, name: str) -> None:
    """InputError if the model folder lacks the file ``name``."""
    if not (folder / name).is_file():
        raise InputError(folder, name, "the folder is missing, or lacks this file")
