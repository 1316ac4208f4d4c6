"""Batch normalisation over the global batch, also on CPUs.

torch's own SyncBatchNorm runs on GPUs only; this one reduces through autograd-aware collectives
and so works on gloo, which lets one process and several be compared on any machine.
"""

from __future__ import annotations

from typing import Any

import torch
from timm.layers.norm_act import BatchNormAct2d, convert_sync_batchnorm
from torch import Tensor, nn
from torch.distributed import get_world_size
from torch.distributed.nn.functional import all_reduce
from torch.nn.modules.batchnorm import _BatchNorm

__all__ = ["synchronize_batch_norm"]


def synchronize_batch_norm(module: nn.Module, device: torch.device) -> None:
    """Replace the batch normalisations inside a module by synchronized ones, in place.

    Parameter and buffer names stay the same, so weights move freely between the two forms.
    """
    for name, child in list(module.named_children()):
        if not isinstance(child, _BatchNorm):
            synchronize_batch_norm(child, device)
        elif device.type == "cuda":
            setattr(module, name, convert_sync_batchnorm(child))
        else:
            setattr(module, name, _SynchronizedBatchNorm(child))


class _SynchronizedBatchNorm(_BatchNorm):
    """Takes over the parameters, buffers and activation of an existing layer."""

    def __init__(self, layer: _BatchNorm) -> None:
        super().__init__(layer.num_features, layer.eps, layer.momentum, layer.affine)
        self.weight, self.bias = layer.weight, layer.bias
        self.running_mean, self.running_var = layer.running_mean, layer.running_var
        self.num_batches_tracked = layer.num_batches_tracked
        self.train(layer.training)
        if isinstance(layer, BatchNormAct2d):
            self.drop, self.act = layer.drop, layer.act

    def forward(self, input: Tensor) -> Tensor:
        """Normalise (N, C, …) by the statistics of all processes' rows."""
        output = self._synchronized(input) if self.training else super().forward(input)
        if "act" in self._modules:
            output = self.act(self.drop(output))
        return output

    def _check_input_dim(self, input: Tensor) -> None:
        """Any (N, C, …) goes."""

    def _synchronized(self, input: Tensor) -> Tensor:
        axes = [axis for axis in range(input.ndim) if axis != 1]
        shape = [1, -1] + [1] * (input.ndim - 2)
        values = input.float()
        count = values.numel() // values.shape[1] * get_world_size()
        mean = all_reduce(values.sum(axes)) / count
        centred = values - mean.view(shape)
        variance = all_reduce(centred.square().sum(axes)) / count
        self._track(mean.detach(), variance.detach() * count / max(1, count - 1))
        output: Tensor = centred * torch.rsqrt(variance + self.eps).view(shape)
        if self.affine:
            output = output * self.weight.view(shape) + self.bias.view(shape)
        return output.to(input.dtype)

    @torch.no_grad()
    def _track(self, mean: Tensor, variance: Tensor) -> None:
        running: tuple[Any, ...] = (self.running_mean, self.running_var, self.num_batches_tracked)
        if any(buffer is None for buffer in running):
            return
        running[2].add_(1)
        momentum = 1 / float(running[2]) if self.momentum is None else self.momentum
        running[0].lerp_(mean.to(running[0].dtype), momentum)
        running[1].lerp_(variance.to(running[1].dtype), momentum)
