"""The one training loop, used by every model that diffground trains."""

from diffground.training.config import TrainConfig
from diffground.training.loop import TrainResult, train

__all__ = ["TrainConfig", "TrainResult", "train"]
