"""A batch norm over the batch that the processes of a run share."""

from __future__ import annotations

import torch
from torch import Tensor, nn
from torch.distributed.nn.functional import all_reduce

from diffground.training.processes import processes


class SharedBatchNorm2d(nn.BatchNorm2d):
    """``nn.BatchNorm2d`` without scale and shift, over the samples of all processes in training.

    ``nn.SyncBatchNorm`` does this on GPUs alone. In one process it is its parent to the last bit.
    """

    def __init__(self, width: int, eps: float) -> None:
        super().__init__(width, eps=eps, affine=False)

    def forward(self, input: Tensor) -> Tensor:
        """Maps (B, C, h, w), normed by the mean and the variance of each channel."""
        if not self.training or processes().num_processes == 1:
            return super().forward(input)
        maps = input.float()
        ones = maps.new_full((1,), maps[:, 0].numel())
        total = all_reduce(torch.cat([maps.sum((0, 2, 3)), ones]))
        count = total[-1].detach()
        mean = total[:-1] / count
        spread = maps - mean[:, None, None]
        variance = all_reduce(spread.square().sum((0, 2, 3))) / count
        self._note(mean.detach(), variance.detach() * count / (count - 1).clamp_min(1))
        return (spread * (variance + self.eps).rsqrt()[:, None, None]).to(input.dtype)

    @torch.no_grad()
    def _note(self, mean: Tensor, variance: Tensor) -> None:
        assert self.running_mean is not None and self.running_var is not None
        assert self.momentum is not None and self.num_batches_tracked is not None
        self.num_batches_tracked += 1
        self.running_mean.lerp_(mean.to(self.running_mean), self.momentum)
        self.running_var.lerp_(variance.to(self.running_var), self.momentum)
