"""A semantic segmenter's settings: its network, training and prediction.

The defaults are the numbers of the public DeepLabV2 in PyTorch (002, appendix A).
"""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any, Literal

from pydantic import PositiveFloat, PositiveInt, model_validator

from diffground.config import Config
from diffground.masks.crf import CrfConfig
from diffground.training.config import TrainConfig

if TYPE_CHECKING:
    from transformers import ResNetConfig


class ResNetShape(Config):
    """The sizes of a ResNet, as in transformers' ``ResNetConfig``."""

    layer_type: Literal["basic", "bottleneck"] = "bottleneck"
    depths: tuple[PositiveInt, ...] = (3, 4, 23, 3)  # layers of each stage: ResNet-101
    hidden_sizes: tuple[PositiveInt, ...] = (256, 512, 1024, 2048)  # channels of each stage
    embedding_size: PositiveInt = 64  # channels of the stem
    downsample_in_bottleneck: bool = False  # the stride is in the first 1x1, as in Caffe's ResNets

    @classmethod
    def of(cls, resnet: ResNetConfig) -> ResNetShape:
        """The sizes of a configuration of transformers."""
        return cls(**{name: getattr(resnet, name) for name in cls.model_fields})


class DeepLabConfig(Config):
    """The network. Either ``weights`` or ``shape`` is given, as ``init`` says."""

    init: Literal["weights", "random"]
    weights: Path | None = None  # a ResNet folder of transformers, for init = weights
    shape: ResNetShape | None = None  # for init = random
    stem_pooling: bool = True  # the max pooling of the stem; without it the stem's stride is 2
    output_stride: Literal[4, 8, 16, 32] = 8  # pixels per cell; later strides become dilation
    rates: tuple[PositiveInt, ...] = (6, 12, 18, 24)  # dilation of the ASPP's branches, in cells
    scales: tuple[PositiveFloat, ...] = (1.0, 0.5, 0.75)  # of the input, merged by their maximum
    # frozen: statistics and affine parameters stay as loaded; not with init = random
    batch_norm: Literal["frozen", "trained"] = "frozen"
    mean: tuple[float, float, float] = (0.485, 0.456, 0.406)  # of RGB in [0, 1]: ImageNet's
    std: tuple[float, float, float] = (0.229, 0.224, 0.225)

    @model_validator(mode="after")
    def _one_beginning(self) -> DeepLabConfig:
        if self.init == "weights" and (self.weights is None or self.shape is not None):
            raise ValueError("init: weights needs `weights`, a folder, and takes the shape from it")
        if self.init == "random" and (self.shape is None or self.weights is not None):
            raise ValueError("init: random needs `shape`, and `weights` to be null")
        if not self.rates or not self.scales or self.scales[0] != 1.0:
            raise ValueError("rates and scales may not be empty, and the first scale is 1")
        return self


class PredictConfig(Config):
    """How a trained network is asked."""

    crf: CrfConfig | None = None  # null = no dense CRF


class SemanticConfig(Config):
    """A segmenter: its network, training and prediction."""

    network: DeepLabConfig
    crop: PositiveInt = 321  # pixels of the square that is learnt from; smaller images are padded
    train: TrainConfig
    predict: PredictConfig = PredictConfig()
    deep_check: bool = True  # opens every training file once, and skips the broken ones

    def train_content(self) -> dict[str, Any]:
        """The training's settings that weights depend on.

        The number of rounds is among them: a loss is the mean over the pixels of one round, as the
        public code's, and so is what a trained batch norm sees.
        """
        return self.train.key_content() | {"accumulation": self.train.accumulation}

    def learning_content(self) -> dict[str, Any]:
        """JSON-ready, all that weights depend on beside the files and the code."""
        settings = self.model_dump(mode="json", exclude={"predict", "train"})
        return settings | {"train": self.train_content()}

    @model_validator(mode="after")
    def _batch_norm_has_a_batch(self) -> SemanticConfig:
        if self.network.batch_norm == "trained" and self.train.batch_size == 1:
            raise ValueError("trained batch norms need a batch of more than one crop")
        return self
